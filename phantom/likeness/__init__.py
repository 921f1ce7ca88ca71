"""How like the real data a folder is: each measured number beside the real one and the band it must meet.

report     the table
measures   the numbers of a folder
shapes     measurements of single masks and slices
guesses    the scores of predictions without a network: an atlas, another day, grey values
"""
