"""Bad inputs and faults, made by generation and tried on the commands; `python -m tests.trials` prints how many of each
ended how. Knows the package's commands and formats; decides nothing for it.
"""
