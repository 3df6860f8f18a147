"""The trading database as this program sees it: rows, features, labels, snapshot, samples, audit."""
