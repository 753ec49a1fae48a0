"""Settings chosen on validation rows; the test rows used once, for what was chosen."""

import json
import math

from experiments import parts


def select(candidates, compute, report, out):
    """Try the candidates on the validation rows, then the best one on the test rows.

    Args:
        candidates: List of the settings of each candidate, as `parts.complete` takes them.
        compute: Function of a candidate's settings and of `scored_on`, "valid" or "test"; returns
            a dictionary with the "error" in percent.
        report: Function of (parts, `out`), called after every part.
        out: Folder.
    """
    parts.complete(_tries(candidates), compute, report, out)
    parts.complete([_final(found(candidates, out)[0])], compute, report, out)


def found(candidates, out):
    """Return the part of the best candidate, its part on the test rows, and how many were tried.

    Both parts are None until there is a result for each candidate; the second, until it is there.
    """
    tried = tries(candidates, out)
    if len(tried) < len(candidates) or not candidates:
        return None, None, len(tried)
    best = min(tried, key=lambda part: part["result"]["error"])
    final = parts.chosen([_final(best)], out)
    return best, (final[0] if final else None), len(tried)


def tries(candidates, out):
    """Return the parts of the candidates on the validation rows, as far as they are there."""
    return parts.chosen(_tries(candidates), out)


def half_width(error, rows):
    """Return half of the 95 % interval of an `error` in percent on `rows`: 1.96·√(p(1-p)/n)."""
    return 196 * math.sqrt(error / 100 * (1 - error / 100) / rows)


def _tries(candidates):
    # Through JSON, as the parts in the file.
    candidates = json.loads(json.dumps(candidates))
    return [{**candidate, "scored_on": "valid"} for candidate in candidates]


def _final(best):
    return {**best["settings"], "scored_on": "test"}
