"""What a person looks at: the result of a run, its summary in a terminal, its page."""
