//! `lnsp model`, as a process: over TLS and through a proxy, once and again; and a service that lacks its model names
//! the command.

use crate::support::database::Database;
use crate::support::fake_hub::{COMMIT, FakeHub, REPOSITORY, read_head};
use crate::support::process::{lnsp, run};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use tempfile::TempDir;

/// `lnsp model ...` with a data folder, and without this machine's own settings.
fn model(data: &Path, arguments: &[&str]) -> Command {
    let mut command = lnsp(&[&["model"], arguments].concat());
    for name in ["HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("LNSP_DATA_DIR", data);
    command
}

#[test]
fn a_model_is_pulled_once_and_listed() {
    let (hub, data) = (FakeHub::start(&crate::hub::files()), tempfile::tempdir().unwrap());
    let pull = ["pull", REPOSITORY, "--hub", &hub.url()];
    let mut first = model(data.path(), &pull[..2]);
    let (code, out, said) = run(first.env("HF_TOKEN", "hf_secret").env("HF_ENDPOINT", hub.url()));
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(out.contains("owner/tiny is here: ") && out.contains(COMMIT), "{out}");
    assert!(out.contains("lnsp serve --embedding-model owner/tiny"), "{out}");
    assert!(!format!("{out}{said}").contains("hf_secret"), "the token is printed");
    assert!(hub.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    assert!(data.path().join("models/owner--tiny/lnsp-model.json").is_file());

    let asked = hub.asked().len();
    let (code, out, _) = run(&mut model(data.path(), &pull));
    assert!(code == Some(0) && out.contains("is here already and whole"), "{out}");
    assert_eq!(hub.asked().len(), asked);

    let (code, out, _) = run(&mut model(data.path(), &["list"]));
    assert_eq!(code, Some(0));
    let line =
        |name: &str| out.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {out}"));
    assert!(line("owner--tiny").contains("ready"), "{out}");
    assert!(line("gtr-t5-base-vec2text").contains("not here"), "{out}");
    assert!(line("all-minilm-l6-v2").contains("ready, 384"), "{out}");
}

#[test]
fn what_set_up_has_fetched_and_folders_need_no_hub() {
    let data = tempfile::tempdir().unwrap();
    let nowhere = ["--hub", "http://127.0.0.1:1"];
    let folder = crate::support::test_service::models().join("all-minilm-l6-v2");
    for name in ["all-minilm-l6-v2", folder.to_str().unwrap()] {
        let (code, out, said) = run(&mut model(data.path(), &[&["pull", name], &nowhere[..]].concat()));
        assert!(code == Some(0) && out.contains("is here already"), "{out}{said}");
    }
    let (code, _, said) = run(&mut model(data.path(), &["pull", "gtr-t5-bass"]));
    assert!(
        code == Some(1) && said.contains("gtr-t5-base-vec2text") && said.contains("owner/name"),
        "{said}"
    );
    let (code, _, said) = run(model(data.path(), &["pull", "gtr-t5-base"]).env("HF_TOKEN", "two geheim"));
    assert!(code == Some(1) && said.contains("HF_TOKEN") && !said.contains("geheim"), "{said}");
    let (code, _, said) = run(model(data.path(), &["pull", "gtr-t5-base"]).env("LNSP_HUB_ENDPOINT", "hub"));
    assert!(code == Some(2) && said.contains("LNSP_HUB_ENDPOINT") && said.contains("base address"), "{said}");
}

#[actix_web::test]
async fn a_service_fetches_nothing_and_names_the_command() {
    let (hub, database) = (FakeHub::start(&[]), Database::new().await);
    let data = tempfile::tempdir().unwrap();
    for name in ["gtr-t5-base", REPOSITORY] {
        let flags = ["--port", "0", "--database-url", database.dsn(), "--embedding-model", name];
        let mut serve = lnsp(&[&["serve"], &flags[..]].concat());
        serve.env("LNSP_DATA_DIR", data.path()).env("LNSP_HUB_ENDPOINT", hub.url());
        let (code, out, said) = run(&mut serve);
        assert_eq!(code, Some(1), "{out}{said}");
        assert!(said.contains(&format!("`lnsp model pull {name}`")), "{said}");
    }
    assert_eq!(hub.asked().len(), 0);
}

/// A hub behind TLS, and the file with the certificate that it shows.
fn hub_with_tls(folder: &TempDir) -> (FakeHub, std::path::PathBuf) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, key.cert.pem()).unwrap();
    let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![key.cert.der().clone()], secret).unwrap();
    let config = Arc::new(config);
    let wrap = move |stream| -> Box<dyn crate::support::fake_hub::Talk> {
        Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream))
    };
    (FakeHub::with(&crate::hub::files(), wrap), file)
}

/// A proxy that connects all clients to one port, and tells which host and which credentials they named.
fn proxy(to: u16) -> (String, mpsc::Receiver<(String, Option<String>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (mut near, mut far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
            let (first, headers) = read_head(&mut near).unwrap();
            // The test may be over.
            drop(tell.send((first, headers.get("proxy-authorization").cloned())));
            near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let (mut back, mut forth) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || drop(copy(&mut near, &mut far)));
            std::thread::spawn(move || {
                drop(copy(&mut forth, &mut back));
                drop(back.shutdown(Shutdown::Both));
            });
        }
    });
    (address, told)
}

#[test]
fn tls_needs_a_certificate_of_a_known_authority() {
    let data = tempfile::tempdir().unwrap();
    let (hub, authority) = hub_with_tls(&data);
    let url = format!("https://localhost:{}", hub.port);
    let pull = ["pull", REPOSITORY, "--hub", &url];
    let (code, _, said) = run(&mut model(data.path(), &pull));
    assert!(code == Some(1) && said.contains("localhost") && said.contains("SSL_CERT_FILE"), "{said}");
    assert!(!said.contains("trying again"), "{said}");
    assert_eq!(hub.asked().len(), 0);

    let (code, out, said) = run(model(data.path(), &pull).env("SSL_CERT_FILE", &authority));
    assert_eq!(code, Some(0), "{out}{said}");
    assert_eq!(hub.fetched().len(), 9);
}

#[test]
fn a_proxy_is_used_for_tls_and_not_where_it_is_not_wanted() {
    let data = tempfile::tempdir().unwrap();
    let (hub, authority) = hub_with_tls(&data);
    let (address, told) = proxy(hub.port);
    // Only the proxy knows the way: nothing listens on this port.
    let pull = ["pull", REPOSITORY, "--hub", "https://localhost:1"];
    let through = format!("http://me:geheim@{address}");
    let mut pull = model(data.path(), &pull);
    let (code, out, said) = run(pull.env("SSL_CERT_FILE", &authority).env("HTTPS_PROXY", &through));
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(!format!("{out}{said}").contains("geheim"));
    // base64 of me:geheim
    let expected = ("CONNECT localhost:1 HTTP/1.1".to_owned(), Some("Basic bWU6Z2VoZWlt".to_owned()));
    assert!(told.try_iter().inspect(|told| assert_eq!(told, &expected)).count() > 0);

    let plain = FakeHub::start(&crate::hub::files());
    let url = plain.url();
    let data = tempfile::tempdir().unwrap();
    let mut pull = model(data.path(), &["pull", REPOSITORY, "--hub", &url]);
    let (code, out, said) = run(pull.env("ALL_PROXY", "http://127.0.0.1:1"));
    assert_eq!(code, Some(0), "{out}{said}");
}
