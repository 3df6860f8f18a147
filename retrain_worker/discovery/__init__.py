"""Which files on this host hold training data, and why not the others: the proof pack. Looks only, changes nothing."""
