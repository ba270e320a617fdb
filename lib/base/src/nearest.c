#include "fathom/doc.h"

#include <string.h>

// Names of options and keys are shorter; what is longer is not a slip of the finger.
enum { NEAREST_BYTES_MAX = 64 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/**
 * Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours. Both
 * lengths are at most NEAREST_BYTES_MAX. Row i holds the distances between the first i bytes of `a` and every
 * prefix of `b`; a swap looks two rows back, so three rows are kept.
 */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][NEAREST_BYTES_MAX + 1];
    for (size_t j = 0; j <= b_length; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        const size_t *before = rows[(i + 1) % 3];
        const size_t *above = rows[(i - 1) % 3];
        size_t *row = rows[i % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            row[j] = least(above[j - 1] + (a[i - 1] != b[j - 1]), least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
    }
    return rows[a_length % 3][b_length];
}

const char *fm_base_nearest(const char *word, const char *const *known)
{
    size_t length = strlen(word);
    if (length > NEAREST_BYTES_MAX)
        return NULL;
    // Beyond a third of the word a suggestion puzzles more than it helps.
    size_t best = length / 3 > 1 ? length / 3 + 1 : 2;
    const char *nearest = NULL;
    for (; *known; known++) {
        size_t known_length = strlen(*known);
        if (known_length > NEAREST_BYTES_MAX)
            continue;
        size_t edits = distance(word, length, *known, known_length);
        if (edits < best) {
            best = edits;
            nearest = *known;
        }
    }
    return nearest;
}
