"""Export rows become votes, and votes become k-of-N labels. Pure: no network, no settings file."""
