#!/bin/busybox sh
# First process of the machine that `cargo xtask kernels` boots. It has the release binary measure real exchanges of the
# tests' own server and reports on the second serial port: `ok WHAT`, `not ok WHAT`, other lines explain, `ok end` last.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
ip link set lo up

# What a crash prints belongs to the report as well.
exec >/dev/ttyS1 2>&1

SERVER=127.0.0.1:8080
TLS_SERVER=127.0.0.1:8443
METRICS=127.0.0.1:10039

finish() {
    for log in /tmp/server.log /tmp/tls.log /tmp/openssl.log /tmp/probe.log; do
        echo "$log:"
        tail -n 30 $log
    done
    echo "ok end"
    # The last one to close a serial port waits until all has been sent.
    exec >/dev/null 2>&1
    poweroff -f
}

verdict() { # WHAT STATUS
    echo "after $(cut -d ' ' -f 1 /proc/uptime) s:"
    if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "not ok $1 (exit code $2)"; fi
}

# Without it there is nothing to go on with.
required() { # WHAT STATUS
    verdict "$1" "$2"
    [ "$2" -eq 0 ] || finish
}

alive() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status"; }

# Runs a command again and again until it succeeds, for so many tenths of a second, while a process is there.
await() { # PID TENTHS COMMAND...
    process=$1
    tenths=$2
    shift 2
    until "$@" >/tmp/await.log 2>&1; do
        tenths=$((tenths - 1))
        [ "$tenths" -gt 0 ] && alive "$process" || return 1
        usleep 100000
    done
}

uname -r

miku-probe check
verdict check $?

# Nothing may ask the server before the probe watches it, or its truth would hold more than the probe can know.
peer serve --listen $SERVER --truth /tmp/truth.json >/tmp/server.log 2>&1 &
server=$!
listening() { netstat -ltn | grep -q "$SERVER "; }
await $server 100 listening
required server $?

# A TLS server of someone else's, which writes a line for each request.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -config /dev/null \
    -keyout /tmp/key.pem -out /tmp/certificate.pem >/tmp/openssl.log 2>&1
echo hello >/tmp/page
(cd /tmp && exec openssl s_server -accept $TLS_SERVER -key key.pem -cert certificate.pem -WWW >/tmp/tls.log 2>&1) &
tls=$!
tls_listening() { netstat -ltn | grep -q "$TLS_SERVER "; }
await $tls 100 tls_listening
required "TLS server" $?

# Event loops that wait in different calls, and begin when they are told. Their turns are long: the probe counts the way from
# the processor back into the program as part of one, and under emulation that takes up to 0.4 ms.
for call in epoll_wait poll pselect6; do
    mkfifo /tmp/go.$call
    peer turns --busy 10 --idle 10 --by $call </tmp/go.$call >/tmp/turns.$call 2>&1 &
    loops="$loops --service $call=pid:$!"
done
exec 4>/tmp/go.epoll_wait 5>/tmp/go.poll 6>/tmp/go.pselect6
said() { [ "$(cat /tmp/turns.* | grep -c "$1")" -eq 3 ]; }
await $$ 100 said ready
required "event loops" $?

# What seems to be a bot, since it calls Discord's API: so it is told when what it reads had come.
mkfifo /tmp/ask
nc 127.0.0.1 8080 </tmp/ask >/tmp/answers 2>&1 &
bot=$!
exec 7>/tmp/ask

miku-probe run $loops --service bot=pid:$bot --service peer=port:8080 --service tls=pid:$tls --web.listen-address $METRICS >/tmp/probe.log 2>&1 &
probe=$!
await $probe 300 peer scrape $METRICS /readyz
required attach $?

# From Linux 6.3 on. What is read first has the probe attach, what comes then has it keep the socket in mind, and the last
# answer lies unread for a while.
ask() { printf 'GET %s HTTP/1.1\r\nHost: discord.com\r\n\r\n' "$1" >&7; }
answered() { [ "$(grep -c ^HTTP /tmp/answers)" -eq "$1" ]; }
metric() { peer scrape $METRICS /metrics | awk -v name="$1" 'index($0, name) == 1 { print $NF }'; }
told() { [ "$(metric 'miku_probe_records_total{kind="arrivals"}')" -ge 1 ]; }
if peer scrape $METRICS /metrics | grep -q '^miku_probe_sites{kind="socket"} [4-9]'; then
    ask /api/v10/gateway
    attached() { [ "$(metric 'miku_probe_sites{kind="arrivals"}')" = 1 ]; }
    await $probe 50 attached
    ask /api/v10/gateway
    await $probe 50 answered 2
    ask "/slow?ms=100"
    usleep 50000
    kill -STOP $bot
    usleep 200000
    kill -CONT $bot
    await $probe 50 told
    verdict arrivals $?
fi

peer load $SERVER --requests 1000 --connections 8 --ask /fast --ask /items/7 --ask "/slow?ms=5" --ask /status/404 \
    --ask /status/204 --ask /chunked --ask "HEAD /fast" >/tmp/load.json &&
    peer load $SERVER --requests 200 --connections 4 --ask "POST /echo" --body 5000 --chunked --split head >>/tmp/load.json
verdict load $?
kill -TERM $server
wait $server
verdict truth $?

# The last records may still be on their way; the last comparison is the one that counts.
agree() { peer compare --truth /tmp/truth.json --metrics $METRICS --service peer; }
await $probe 50 agree
agree
verdict counts $?

for request in 1 2 3 4 5 6 7 8; do
    printf 'GET /page HTTP/1.0\r\nHost: localhost\r\n\r\n' |
        openssl s_client -connect $TLS_SERVER -servername localhost -quiet -ign_eof >>/tmp/openssl.log 2>&1
done
# The server's own count, and the probe's.
tls_agree() {
    served=$(grep -c '^FILE:' /tmp/tls.log)
    counted=$(peer scrape $METRICS /metrics |
        awk '/^http_server_request_duration_seconds_count.*service="tls"/ { sum += $NF } END { print sum + 0 }')
    echo "over TLS: $served served, $counted counted"
    [ "$served" -eq 8 ] && [ "$counted" -eq "$served" ]
}
await $probe 50 tls_agree
tls_agree
verdict TLS $?
kill -TERM $tls

# What each loop noted, and what the probe says: so many turns, and no more than a tenth beside.
# One after the other, or they would take the processor from each other.
noted() { grep -q "^turns" "/tmp/turns.$1"; }
echo go >&4
await $probe 100 noted epoll_wait
echo go >&5
await $probe 100 noted poll
echo go >&6
await $probe 100 noted pselect6
loops_agree() {
    peer scrape $METRICS /metrics >/tmp/metrics
    for call in epoll_wait poll pselect6; do
        awk -v call="service=\"$call\"" '
            FILENAME != "/tmp/metrics" && /^turns/ { turns = $2; busy = $4; idle = $6 }
            index($0, call) && /^miku_event_loop_busy_seconds_count/ { count = $NF }
            index($0, call) && /^miku_event_loop_busy_seconds_sum/ { sum = $NF }
            index($0, call) && /^miku_event_loop_idle_seconds_total/ { waited = $NF }
            index($0, "where=\"recursion\"") && /^miku_probe_lost_total/ { lost = $NF }
            function near(a, b) { return a < b * 1.1 && b < a * 1.1 }
            END { printf "%s: %d turns of %d and %d lost, busy %.3f of %.3f s, idle %.3f of %.3f s\n", call, count, turns, lost, sum, busy, waited, idle
                  exit !(turns && count <= turns && count + lost >= turns && near(sum, busy) && near(waited, idle)) }
        ' /tmp/turns.$call /tmp/metrics || return 1
    done
}
await $probe 50 loops_agree
loops_agree
verdict "turns of event loops" $?

# The first ends by itself when it is asked to, the other one by the signal.
ends_agree() {
    peer scrape $METRICS /metrics | grep '^miku_process_exits_total' >/tmp/ends
    cat /tmp/ends
    grep -qF '{code="0",reason="exit",service="peer"} 1' /tmp/ends &&
        grep -qF '{code="SIGTERM",reason="signal",service="tls"} 1' /tmp/ends
}
await $probe 50 ends_agree
ends_agree
verdict ends $?

kill -TERM $probe
gone() { ! alive $probe; }
await $$ 20 gone
verdict "exit within 2 s" $?
kill -KILL $probe 2>/dev/null
wait $probe
verdict "clean exit" $?

finish
