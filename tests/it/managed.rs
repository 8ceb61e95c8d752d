//! The server of our own is made, adopted, restarted and stopped, and refuses with a sentence what it cannot do.

use crate::store::{draft, embedded, fresh, model, plain};
use crate::support::postgres::{DataFolder, connect, open, server_folder};
use crate::support::wait::until;
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use lnsp_ingest::chunk::ChunkKey;
use lnsp_ingest::store::managed::{ManagedError, ManagedPostgres};
use lnsp_ingest::store::{Dsn, InsertOutcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

async fn stored(dsn: &Dsn, id: &str) -> bool {
    let store = open(dsn.clone()).await;
    let key = ChunkKey { dataset: "info".into(), id: id.into() };
    !store.known(&[key]).await.unwrap().is_empty()
}

/// Absent for a moment while a server is starting.
fn server_pid(folder: &Path) -> Option<Pid> {
    let file = std::fs::read_to_string(folder.join("postgres/cluster/postmaster.pid")).ok()?;
    file.lines().next()?.parse().ok().map(Pid::from_raw)
}

/// Run as a process of its own by the tests that kill a service: starts a server, says so, and waits for its end.
#[test]
fn a_service_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os("LNSP_TEST_SERVICE_FOLDER") else { return };
    let server = ManagedPostgres::start(Path::new(&folder)).unwrap();
    println!("\nready {}", server.dsn());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    server.stop().unwrap();
}

fn service(folder: &Path) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "managed::a_service_in_a_process_of_its_own", "--nocapture"])
        .env("LNSP_TEST_SERVICE_FOLDER", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("ready ")), "the service ended");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_its_service_and_is_adopted() {
    let folder = DataFolder::with_cluster();
    let mut killed = service(folder.path());
    let pid = server_pid(folder.path()).unwrap();
    // Not in the group of the service: a Ctrl-C on the terminal does not reach it.
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);
    let refused = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(refused, ManagedError::InUse { .. }) && refused.is_transient(), "{refused}");
    killed.kill().unwrap();
    killed.wait().unwrap();

    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(server.adopted() && server_pid(folder.path()) == Some(pid));
    let store = open(server.dsn().clone()).await;
    let model = store.adopt_model(&model("tiny")).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    // Stopping ends open connections, and also stops what was adopted.
    server.stop().unwrap();
    assert!(!folder.path().join("postgres/cluster/postmaster.pid").exists());
    assert!(store.ping().await.unwrap_err().is_transient());

    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(!server.adopted());
    assert!(stored(server.dsn(), "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_under_the_living_service() {
    let folder = DataFolder::with_cluster();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    let store = open(server.dsn().clone()).await;
    let model = store.adopt_model(&model("tiny")).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    let pid = server_pid(folder.path()).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();

    // Whatever is asked meanwhile is answered, or fails in a way that can be repeated.
    let is_another = || server_pid(folder.path()).is_some_and(|now| now != pid);
    let asked = async {
        loop {
            let another = is_another();
            let rows = [plain("a"), plain("b"), plain("c")];
            let rows = if another { &rows[..] } else { &rows[..2] };
            match store.insert(model, rows).await {
                Ok(batch) if another => break batch.outcomes,
                Ok(_) => {}
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            tokio::task::yield_now().await;
        }
    };
    let (outcomes, ()) = tokio::join!(asked, until("another server runs", is_another));
    assert!(
        matches!(outcomes[0], InsertOutcome::Present(_))
            && matches!(outcomes[2], InsertOutcome::Inserted { .. }),
        "{outcomes:?}"
    );
    assert_eq!(store.count_chunks().await.unwrap(), 3);
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_of_a_dead_or_foreign_process_is_no_obstacle() {
    let folder = DataFolder::with_cluster();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    let pid_file = folder.path().join("postgres/cluster/postmaster.pid");
    let left = std::fs::read_to_string(&pid_file).unwrap();
    server.stop().unwrap();
    // The number of a living process that is no server; the kernel reused it, as containers do.
    let rest = left.split_once('\n').unwrap().1;
    std::fs::write(&pid_file, format!("{}\n{rest}", std::process::id())).unwrap();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(!server.adopted());
    server.stop().unwrap();
    std::fs::write(&pid_file, left).unwrap();
    assert!(!ManagedPostgres::start(folder.path()).unwrap().adopted());
}

/// A server that was killed stays as a zombie where no parent takes its exit status, or its number is another process's
/// by now; PostgreSQL takes either for itself when it is of its account.
#[tokio::test(flavor = "multi_thread")]
async fn both_lock_files_of_a_server_whose_number_still_lives_are_no_obstacle() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let folder = DataFolder::with_cluster();
    let postgres = folder.path().join("postgres");
    let server = ManagedPostgres::start(folder.path()).unwrap();
    let pid = server_pid(folder.path()).unwrap().to_string();
    let files = [postgres.join("cluster/postmaster.pid"), postgres.join("run/.s.PGSQL.5432.lock")];
    let left = files.each_ref().map(|file| std::fs::read_to_string(file).unwrap());
    server.stop().unwrap();
    let owner = std::fs::metadata(&postgres).unwrap();
    let mut living =
        Command::new("sleep").arg("600").uid(owner.uid()).gid(owner.gid()).current_dir("/").spawn().unwrap();
    for (file, left) in files.iter().zip(left) {
        let rest = left.strip_prefix(&pid).unwrap();
        std::fs::write(file, format!("{}{rest}", living.id())).unwrap();
        std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let started = ManagedPostgres::start(folder.path());
    living.kill().unwrap();
    living.wait().unwrap();
    assert!(!started.unwrap().adopted());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_beginning_is_mended_and_a_long_path_works() {
    let folder = DataFolder::new();
    let long = folder.path().join("x".repeat(120));
    let unfinished = long.join("postgres/cluster.unfinished");
    std::fs::create_dir_all(unfinished.join("base")).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    std::fs::create_dir(long.join("postgres/cluster")).unwrap();
    let server = ManagedPostgres::start(&long).unwrap();
    assert!(server.version().split('.').next().unwrap().parse::<u32>().unwrap() >= 14);
    let store = open(server.dsn().clone()).await;
    store.ping().await.unwrap();
    assert!(!unfinished.exists());
    let run_folder = server.dsn().to_string();
    let run_folder = run_folder.strip_prefix("host=").unwrap().split_once(" port").unwrap().0.to_owned();
    server.stop().unwrap();
    std::fs::remove_dir(run_folder).unwrap();
}

#[test]
fn a_cluster_of_another_version_is_refused() {
    let folder = DataFolder::new();
    let cluster = folder.path().join("postgres/cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "9.6\n").unwrap();
    let error = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(error, ManagedError::OtherMajor { found: 9, .. }) && !error.is_transient(), "{error}");

    std::fs::remove_file(cluster.join("PG_VERSION")).unwrap();
    std::fs::write(cluster.join("letters.txt"), "of mine").unwrap();
    let error = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(error, ManagedError::NotACluster { .. }), "{error}");
    assert!(cluster.join("letters.txt").exists());
}

#[test]
fn root_is_told_which_folder_keeps_the_server_out() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = DataFolder::new();
    let closed = folder.path().join("closed");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&closed).unwrap();
    let error = ManagedPostgres::start(&closed.join("data")).unwrap_err();
    assert!(
        error.to_string().contains("closed (chmod") || error.to_string().contains("chmod o+x"),
        "{error}"
    );
    assert!(matches!(error, ManagedError::Closed { folder, .. } if folder == closed.canonicalize().unwrap()));
}

#[tokio::test]
async fn the_server_flushes_and_logs_no_row() {
    let (store, model, dsn) = fresh().await;
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        value: String,
    }
    let mut conn = connect(&dsn).await;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("log_min_error_statement", "panic"),
        ("shared_buffers", "128MB"),
    ] {
        let found = diesel::sql_query(format!("SELECT current_setting('{name}') AS value"));
        let found: Setting = found.get_result(&mut conn).await.unwrap();
        assert_eq!(found.value, value, "{name}");
    }
    let no_vector = embedded(draft("info", "1", "a very secret text"), (1, 1, 1), &[]);
    store.insert(model, &[no_vector]).await.unwrap_err();
    let log = std::fs::read_to_string(server_folder().join("server.log")).unwrap();
    assert!(log.contains("violates check constraint") && !log.contains("very secret"), "{log}");
}
