#include <string.h>

#include "fathom/mem.h"
#include "fathom/rng.h"

#include "net_rpc.h"

int64_t fm_net_backoff_next_ns(fm_net_backoff *backoff)
{
    int64_t span = backoff->first_ns ? backoff->first_ns : 50 * 1000000;
    int64_t limit = backoff->limit_ns ? backoff->limit_ns : (int64_t)5000 * 1000000;
    for (uint32_t i = 0; i < backoff->attempt && span < limit; i++)
        span = span > limit / 2 ? limit : 2 * span;
    uint64_t z = fm_base_rng_at(backoff->seed, 0, backoff->attempt++);
    return span / 2 + (int64_t)(z % (uint64_t)(span - span / 2 + 1));
}

struct fm_net_dialer {
    fm_net_loop *loop;
    char *address;
    fm_net_key key;
    fm_net_connect_options options; // the owner's
    fm_net_backoff backoff;
    fm_net_conn *conn;
    fm_net_timer timer; // always set, for ever while there is a connection: so moving it never needs memory
    int freed;          // waits for its connection to end
};

static void wait_again(fm_net_dialer *dialer)
{
    dialer->conn = NULL;
    // Cannot fail: the timer is set.
    (void)!fm_net_timer_start(dialer->loop, &dialer->timer, fm_net_backoff_next_ns(&dialer->backoff));
}

static void discard(fm_net_dialer *dialer)
{
    fm_net_timer_stop(dialer->loop, &dialer->timer);
    fm_net_key_clear(&dialer->key);
    fm_net_tls_free(dialer->options.security.tls);
    fm_base_mem_free(dialer->address);
    fm_base_mem_free(dialer);
}

static void dialer_up(void *context, fm_net_conn *conn)
{
    fm_net_dialer *dialer = context;
    dialer->backoff.attempt = 0;
    if (dialer->options.up)
        dialer->options.up(dialer->options.context, conn);
}

static void dialer_down(void *context, fm_net_conn *conn, fm_status status)
{
    fm_net_dialer *dialer = context;
    void (*down)(void *context, fm_net_conn *conn, fm_status status) = dialer->options.down;
    void *owner = dialer->options.context;
    if (dialer->freed)
        discard(dialer);
    else
        wait_again(dialer);
    if (down) // last: it may free the dialer
        down(owner, conn, status);
}

static void dial(void *context)
{
    fm_net_dialer *dialer = context;
    // The place in the heap that firing has left is still there.
    (void)!fm_net_timer_start(dialer->loop, &dialer->timer, FM_NET_FOREVER);
    fm_net_connect_options options = dialer->options;
    options.up = dialer_up;
    options.down = dialer_down;
    options.context = dialer;
    fm_status status = fm_net_loop_connect(dialer->loop, dialer->address, &options, &dialer->conn);
    if (status < 0)
        dialer_down(dialer, NULL, status);
}

fm_status fm_net_dialer_new(fm_net_loop *loop, const char *address, const fm_net_connect_options *options,
                            const fm_net_backoff *backoff, fm_net_dialer **out_dialer)
{
    fm_net_dialer *dialer = fm_base_mem_zalloc(1, sizeof *dialer);
    char *copy = fm_base_mem_strdup(address);
    if (!dialer || !copy) {
        fm_base_mem_free(dialer);
        fm_base_mem_free(copy);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to dial %s", address);
    }
    dialer->loop = loop;
    dialer->address = copy;
    memcpy(&dialer->options, options, options->size < sizeof *options ? options->size : sizeof *options);
    if (options->security.key) {
        dialer->key = *options->security.key;
        dialer->options.security.key = &dialer->key;
    }
    (void)fm_net_tls_ref(options->security.tls);
    dialer->backoff = *backoff;
    dialer->timer = (fm_net_timer){.fire = dial, .context = dialer};
    fm_net_address parsed;
    fm_status status = fm_net_address_parse(address, &parsed);
    if (status == FM_OK)
        status = fm_net_timer_start(loop, &dialer->timer, 0);
    if (status < 0) {
        discard(dialer);
        return status;
    }
    *out_dialer = dialer;
    return FM_OK;
}

fm_net_conn *fm_net_dialer_conn(const fm_net_dialer *dialer)
{
    return dialer->conn;
}

void fm_net_dialer_free(fm_net_dialer *dialer)
{
    if (!dialer)
        return;
    if (!dialer->conn) {
        discard(dialer);
        return;
    }
    dialer->freed = 1;
    fm_net_conn_close(dialer->conn);
}
