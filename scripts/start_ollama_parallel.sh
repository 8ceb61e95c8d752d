#!/usr/bin/env bash
# Starts Ollama so that it works on many calls at once, says what is missing, and stays until Ctrl-C.
set -euo pipefail

usage='usage: scripts/start_ollama_parallel.sh
OLLAMA_NUM_PARALLEL (10)        calls that the server works on at once; each needs memory for its own context
OLLAMA_MAX_LOADED_MODELS (3)    models in memory at once
OLLAMA_HOST (localhost:11434)   where the server listens
LNSP_TMD_LLM_MODEL (llama3.1:8b)  the model that the service will ask for'

name=scripts/start_ollama_parallel.sh
case ${1:-} in
'') ;;
-h | --help)
    echo "$usage"
    exit 0
    ;;
*)
    printf '%s: "%s" is not known\n%s\n' "$name" "$1" "$usage" >&2
    exit 2
    ;;
esac

give_up() {
    echo "$name: $1" >&2
    exit 1
}

command -v ollama >/dev/null 2>&1 ||
    give_up "ollama is not on the PATH; install it (https://ollama.com/download), or let LNSP_LLM_ENDPOINT name a server elsewhere"
command -v python3 >/dev/null 2>&1 || give_up "python3 is not on the PATH; this script asks the server with it"

export OLLAMA_NUM_PARALLEL=${OLLAMA_NUM_PARALLEL:-10}
export OLLAMA_MAX_LOADED_MODELS=${OLLAMA_MAX_LOADED_MODELS:-3}
model=${LNSP_TMD_LLM_MODEL:-llama3.1:8b}

# OLLAMA_HOST may be a host, a port, both, or a URL. A server on all interfaces is asked through this machine's own.
place=${OLLAMA_HOST:-localhost:11434}
place=${place#*://}
place=${place%%/*}
port=11434
case $place in
\[*\]:*) port=${place##*:} host=${place%:*} ;;
\[*\]) host=$place ;;
*:*:*) host="[$place]" ;;
*:*) port=${place##*:} host=${place%:*} ;;
*) host=$place ;;
esac
case $host in
'' | 0.0.0.0) host=127.0.0.1 ;;
'[::]') host='[::1]' ;;
esac
url="http://$host:$port"

# The names of the models, a line each. Ends with 3 when something listens there that is no Ollama, with 1 when
# nothing does. Straight to the server, whatever proxy is set.
models() {
    python3 -c '
import http.client, json, sys, urllib.parse
at = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(at.hostname, at.port, timeout=5)
try:
    connection.connect()
except OSError:
    sys.exit(1)
try:
    connection.request("GET", "/api/tags")
    print(*(model["name"] for model in json.load(connection.getresponse())["models"]), sep="\n")
except Exception:
    sys.exit(3)
' "$url" 2>/dev/null
}

code=0
models >/dev/null || code=$?
case $code in
0)
    give_up "a server already answers at $url. How many calls it works on at once was settled when it was started \
and cannot be changed from outside: stop it first (Ctrl-C where it runs, \"systemctl stop ollama\", or quit the app), \
then run this again"
    ;;
3) give_up "something that is no Ollama listens at $url; stop it, or choose another address with OLLAMA_HOST" ;;
esac

server=
alive() { kill -0 "$server" 2>/dev/null; }

# Stops the one process that was started here, and waits for it.
# shellcheck disable=SC2317,SC2329  # called by the trap
stop() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    # The terminal may be gone: a line that cannot be printed must not keep the server alive.
    set +e
    if [ -n "$server" ] && alive; then
        kill -TERM "$server" 2>/dev/null
        echo "Ollama: stopping (pid $server)"
        for _ in $(seq 100); do
            alive || break
            sleep 0.2
        done
        if alive; then
            kill -KILL "$server" 2>/dev/null
        fi
        wait "$server" 2>/dev/null
        echo "Ollama: stopped"
    fi
    exit "$code"
}

trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# In a process group of its own: Ctrl-C reaches this script alone, which then stops the server once.
set -m
ollama serve </dev/null &
server=$!
set +m
echo "Ollama: starting (pid $server), $OLLAMA_NUM_PARALLEL calls and $OLLAMA_MAX_LOADED_MODELS models at once"

patience=$((SECONDS + 60))
until there=$(models); do
    alive || give_up "ollama has ended before it answered; what it said stands above"
    [ $SECONDS -lt $patience ] || give_up "ollama has not answered at $url within a minute"
    sleep 0.2
done

echo "Ollama: ready at $url"
if [ -z "$there" ]; then
    echo "Models: none yet"
else
    echo "Models: ${there//$'\n'/, }"
fi
# A name without a tag means the latest.
case $model in
*:*) wanted=$model ;;
*) wanted=$model:latest ;;
esac
if ! grep -qxF -e "$wanted" <<<"$there"; then
    echo "Missing: $model, which the service asks for. In another terminal: ollama pull $model"
fi
echo "The service finds it with LNSP_LLM_ENDPOINT=$url and LNSP_MAX_PARALLEL_WORKERS=$OLLAMA_NUM_PARALLEL. Ctrl-C stops it."

code=0
wait "$server" || code=$?
server=
give_up "ollama has ended by itself (exit code $code)"
