"""A DeepFM click model that answers where the data is."""
