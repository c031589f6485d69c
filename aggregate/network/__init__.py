"""The set transformer, its saved form, and weights of the released code."""
