"""Publishing a folder with a card (a release, a model) and getting it back: the Hub, Zenodo, another folder."""
