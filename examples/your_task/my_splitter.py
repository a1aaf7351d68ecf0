"""A splitter: a step is two moves, that is two blank lines, in place of one."""


def two_moves(pieces):
    """The ends of the steps: increasing token positions, exclusive; the last one is the number of tokens.

    pieces: (T,) the text of each token of a completion; joined, they are the completion.
    """
    ends, blank_lines, text = [], 0, ""
    for end, piece in enumerate(pieces, 1):
        text += piece
        if "\n\n" in text:
            blank_lines, text = blank_lines + 1, ""
            if blank_lines % 2 == 0:
                ends.append(end)
    if len(pieces) and (not ends or ends[-1] != len(pieces)):
        ends.append(len(pieces))  # what follows the last whole step is a step, too
    return ends
