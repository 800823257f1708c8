"""What the exit code of ``polargrad`` says."""

FAILED = 1  # the run failed although it was asked for correctly
WRONG = 2  # the request was wrong
INTERRUPTED = 130  # Ctrl-C, as a shell reports it
NOBODY_READS = 141  # the reader of the output has gone, as a shell reports it
