#include "fm_certs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fm_test.h"

static const char script[] =
    "set -e; cd \"$1\"; exec 2>log\n"
    "ec='-newkey ec -pkeyopt ec_paramgen_curve:P-256'\n"
    "for ca in ca other; do\n"
    "  openssl req -x509 $ec -nodes -keyout $ca.key -out $ca.pem -subj /CN=$ca -days 30\n"
    "done\n"
    "member() { openssl req $ec -nodes -keyout $1.key -out $1.csr -subj /CN=$1\n"
    "  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -set_serial $3 -days $4 ${5:+-extfile $5} -out "
    "$1.pem; }\n"
    "echo 'subjectAltName = DNS:localhost, DNS:*.fathom.test, IP:127.0.0.1' >names\n"
    "member a ca 1 30; member b ca 2 30; member old ca 3 -1; member foreign other 4 30\n"
    "member named ca 5 30 names; member revoked ca 6 30\n"
    "printf '[ca]\\ndefault_ca = here\\n[here]\\ndatabase = index\\ndefault_md = sha256\\n' >ca.conf\n"
    "list() { openssl ca -config ca.conf -cert $1.pem -keyfile $1.key \"${@:2}\"; }\n"
    ": >index; list other -gencrl -crldays 30 -out other.crl\n"
    "list ca -gencrl -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z -out stale.crl\n"
    "list ca -revoke revoked.pem; list ca -gencrl -crldays 30 -out ca.crl\n"
    "openssl ec -in a.key -aes128 -passout pass:secret -out locked.key\n"
    "cp a.key open.key; echo nonsense >nonsense; chmod 600 *.key nonsense; chmod 644 open.key\n";

const char *fm_test_cert(const char *name)
{
    static char paths[32][400];
    static int next;
    static int made;
    char command[1000];
    if (!made) {
        if (system("command -v openssl >/dev/null") != 0)
            fm_test_skip("no openssl command to make certificates with");
        snprintf(command, sizeof command, "bash '%s' '%s'",
                 fm_test_file("make_certs", script, strlen(script)), fm_test_tmpdir());
        if (system(command) != 0)
            fail_msg("openssl made no certificates; see %s/log", fm_test_tmpdir());
        made = 1;
    }
    char *path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", fm_test_tmpdir(), name);
    return path;
}
