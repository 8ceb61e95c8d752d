# Waits for its standard input to close, then stops the server in the data folder $1 and removes the folder.
word=$(cat)
pid_file=$1/postgres/cluster/postmaster.pid

stop_server() {
    pid=$(head -n 1 "$pid_file" 2> /dev/null)
    [ -n "$pid" ] && kill -INT "$pid" 2> /dev/null || return
    # The server removes the file last. Its process may stay a zombie where no parent collects its exit status.
    tries=0
    while [ -e "$pid_file" ] && [ "$tries" -lt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
}

stop_server
rm -rf "$1" 2> /dev/null
[ "$word" = "in order" ] && exit
# The tests were killed. What they had started, a copy or a service with its server, may go on for a moment.
rounds=0
while sleep 0.5 && [ -e "$1" ] && [ "$rounds" -lt 20 ]; do
    stop_server
    rm -rf "$1" 2> /dev/null
    rounds=$((rounds + 1))
done
