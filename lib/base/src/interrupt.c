#include "fathom/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

int fm_base_interrupt_signal;

static const int handled[] = {SIGINT, SIGTERM};

enum { HANDLED = sizeof handled / sizeof handled[0] };

static struct sigaction replaced[HANDLED];
static int installed;

static void on_signal(int signal_number)
{
    int none = 0;
    // Only the first signal sets the flag. Pairs with fm_base_interrupted(); guards no other data, hence
    // relaxed.
    if (__atomic_compare_exchange_n(&fm_base_interrupt_signal, &none, signal_number, 0, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        return;
    // Blocked while this handler runs, the signal is delivered, by default action, when it returns.
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

fm_status fm_base_interrupt_install(void)
{
    if (installed)
        return fm_base_error_set(FM_ERR_STATE, "interrupt handlers are installed already");
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < HANDLED; i++) {
        // sigaction() fails only for signals that cannot be handled, and these can.
        sigaction(handled[i], NULL, &replaced[i]);
        if (replaced[i].sa_handler != SIG_IGN)
            sigaction(handled[i], &action, NULL);
    }
    installed = 1;
    return FM_OK;
}

void fm_base_interrupt_restore(void)
{
    if (!installed)
        return;
    for (int i = 0; i < HANDLED; i++)
        sigaction(handled[i], &replaced[i], NULL);
    installed = 0;
    __atomic_store_n(&fm_base_interrupt_signal, 0, __ATOMIC_RELAXED);
}

fm_status fm_base_interrupt_check(void)
{
    if (!fm_base_interrupted())
        return FM_OK;
    int signal_number = __atomic_load_n(&fm_base_interrupt_signal, __ATOMIC_RELAXED);
    return fm_base_error_set(FM_ERR_CANCELLED, "interrupted (%s)", strsignal(signal_number));
}
