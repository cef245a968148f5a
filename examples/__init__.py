"""The tiny model and data set that the demonstration uses, and the scripts that made them."""
