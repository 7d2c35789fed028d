"""Training on real data: files, the Lightning module, run folders, figures, the command line.

`discdiff.train.run.load` brings a finished run back; ``discdiff train --help`` lists the options.
"""
