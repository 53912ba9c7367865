"""How far apart two texts are."""


def edit_distance(left: str, right: str) -> int:
    """Levenshtein: insertions, deletions and substitutions, each of cost 1."""
    previous = list(range(len(right) + 1))
    for row, ours in enumerate(left, 1):
        current = [row]
        for column, theirs in enumerate(right, 1):
            swap = previous[column - 1] + (ours != theirs)
            current.append(min(previous[column] + 1, current[-1] + 1, swap))
        previous = current
    return previous[-1]
