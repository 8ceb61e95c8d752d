# Waits for its standard input to close, then stops the server in the data folder $1 and removes the folder.
cat > /dev/null
pid_file=$1/postgres/cluster/postmaster.pid
pid=$(head -n 1 "$pid_file" 2> /dev/null)
if [ -n "$pid" ] && kill -INT "$pid" 2> /dev/null; then
    # The file goes last. Its process may stay as a zombie where nobody takes its exit status.
    tries=0
    while [ -e "$pid_file" ] && [ "$tries" -lt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
fi
rm -rf "$1"
