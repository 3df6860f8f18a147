"""From a snapshot to a candidate: choose the contract, train, calibrate, write, verify."""
