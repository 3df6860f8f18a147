"""Continuous retraining of PatchTST on one systemd host: pull, audit, train, gate, promote, for ever, unattended.

The rooms, outermost first; imports point inwards only (checked by `make lint`):

    __main__  cli       the command and its verbs
    daemon              the process: composition root, schedule, service
    demo                a simulated market and a stand-in for the engine
    stages              what happens: one idempotent module per Stage
    adapters            where it touches the world: one neighbour each
    work                the worker process: reads rows, trains, measures
    serving             for those who react: event consumer, verified hot reload
    report              what a person looks at
    discovery           which files on this host hold training data, and why not the others
    model               the network and its file, shared by the worker that makes it and the consumer that serves it
    settings            the environment, read once
    domain              what is true: standard library only, no clock, no I/O
    errors              the whole error tree
"""

__version__ = "0.1.0"
