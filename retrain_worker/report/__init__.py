"""The result of a run as JSON, as text for a terminal and as a page."""
