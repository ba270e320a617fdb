/*
 * A heap: what stands before all others comes first. Included by who has defined
 *
 *     HEAP_ITEM                                           the type of an item
 *     static int before(const HEAP_ITEM *a, const HEAP_ITEM *b)    a total order
 */

// There is room for one item more.
static void heap_push(HEAP_ITEM *heap, size_t *count, HEAP_ITEM item)
{
    size_t at = (*count)++;
    for (; at > 0 && before(&item, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = item;
}

// There is an item.
static HEAP_ITEM heap_pop(HEAP_ITEM *heap, size_t *count)
{
    HEAP_ITEM top = heap[0], last = heap[--*count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *count; at = child) {
        if (child + 1 < *count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}
