"""What a network hears of a crop: spectrograms of its time."""
