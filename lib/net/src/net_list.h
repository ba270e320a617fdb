// Doubly linked lists through the objects themselves: O(1) insert and remove, no allocation. A zeroed link is
// in no list.
#ifndef NET_LIST_H
#define NET_LIST_H

#include <stddef.h>

struct net_link {
    struct net_link *next, *prev;
};

// The head of a list is a link that points to itself when the list is empty.
static inline void net_list_init(struct net_link *head)
{
    head->next = head->prev = head;
}

static inline int net_list_empty(const struct net_link *head)
{
    return head->next == head;
}

static inline int net_link_listed(const struct net_link *link)
{
    return link->next != NULL;
}

static inline void net_link_remove(struct net_link *link)
{
    if (!link->next)
        return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = link->prev = NULL;
}

// Moves the link to the end, from whatever list it is in.
static inline void net_list_append(struct net_link *head, struct net_link *link)
{
    net_link_remove(link);
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

#define NET_OF(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

#endif
