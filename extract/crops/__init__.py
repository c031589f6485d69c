"""From a crop policy and the facts of a video to boxes in space and time."""
