//! `lnsp doctor`: what it finds, that it changes nothing, and how a device is chosen.

use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp, run};
use crate::support::test_service::models;
use lnsp_ingest::doctor::{Situation, rows, suggest};
use lnsp_ingest::encoder::plan::Budget;
use lnsp_ingest::encoder::{
    Comparison, Device, DeviceChoice, Dtype, DtypeChoice, EncodeError, LinearKind, Parallelism, Rate, Tuning,
    formats, settle,
};
use lnsp_ingest::simulated_llm::{Latency, Options, SimulatedLlm};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

const SECRET: &str = "s3cret";

/// A machine of which these devices reach so many texts in a second; the others fail.
fn machine(rates: &'static [(Device, f64)]) -> impl FnMut(Device, DtypeChoice) -> Result<Rate, EncodeError> {
    move |device, dtype| {
        let Some(&(_, rate)) = rates.iter().find(|(known, _)| *known == device) else {
            return Err(EncodeError::Torch { doing: "multiplying matrices", reason: "no kernel".to_owned() });
        };
        let (dtype, factor) = match dtype {
            DtypeChoice::Only(Dtype::F32) => (Dtype::F32, 1.0),
            _ => (Dtype::Bf16, 2.0),
        };
        let budget = Budget { tokens: 1024, texts: 512 };
        let tuning = Tuning { dtype, linear: LinearKind::Default, budget };
        Ok(Rate { parallelism: Parallelism::on(device), tuning, texts_per_s: rate * factor })
    }
}

const BOTH: [DtypeChoice; 2] = [DtypeChoice::Only(Dtype::F32), DtypeChoice::Only(Dtype::Bf16)];

#[test]
fn the_fastest_device_is_taken_and_one_that_fails_is_not() {
    let auto = DtypeChoice::Auto;
    let faster = machine(&[(Device::Cpu, 100.0), (Device::Mps, 475.0)]);
    let settled = settle(&[Device::Cpu, Device::Mps], auto, faster).unwrap();
    assert_eq!((settled.device, settled.tuning.unwrap().dtype), (Device::Mps, Dtype::Bf16));

    let slower = machine(&[(Device::Cpu, 475.0), (Device::Mps, 100.0)]);
    assert_eq!(settle(&[Device::Cpu, Device::Mps], auto, slower).unwrap().device, Device::Cpu);

    let broken = machine(&[(Device::Cpu, 100.0)]);
    let settled = settle(&[Device::Cpu, Device::Mps], auto, broken).unwrap();
    assert_eq!(settled.device, Device::Cpu);
    let line = settled.comparison.to_string();
    assert!(line.starts_with("cpu 200 texts/s (bf16, ") && line.contains("mps none ("), "{line}");
    assert!(line.contains("no kernel"), "{line}");

    let error = settle(&[Device::Cpu, Device::Mps], auto, machine(&[])).unwrap_err();
    assert!(error.to_string().contains("no kernel"), "{error}");
}

#[test]
fn where_there_is_one_device_nothing_is_measured() {
    let settled = settle(&[Device::Cpu], DtypeChoice::Auto, |_, _| panic!("it was measured")).unwrap();
    assert_eq!((settled.device, settled.tuning), (Device::Cpu, None));
    assert!(settled.comparison.trials.is_empty());
}

#[test]
fn the_table_has_a_row_for_each_device_and_format_and_marks_what_would_be_taken() {
    let here = [Device::Cpu, Device::Mps, Device::Cuda(0)];
    let pairs = here.iter().flat_map(|&device| BOTH.map(|dtype| (device, dtype)));
    let comparison = Comparison::measure(pairs, machine(&[(Device::Cpu, 100.0), (Device::Cuda(0), 9000.0)]));
    let table = |allowed: &[Device], dtype| {
        let rows = rows(&comparison, allowed, dtype);
        let chosen: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].chosen).collect();
        (rows, chosen)
    };
    let (rows, chosen) = table(&here, DtypeChoice::Auto);
    let shape: Vec<_> =
        rows.iter().map(|row| (row.device.as_str(), row.dtype.as_str(), row.texts_per_s)).collect();
    let expected = [
        ("cpu", "f32", Some(100.0)),
        ("cpu", "bf16", Some(200.0)),
        ("mps", "f32", None),
        ("mps", "bf16", None),
        ("cuda:0", "f32", Some(9000.0)),
        ("cuda:0", "bf16", Some(18_000.0)),
    ];
    assert_eq!((shape.as_slice(), chosen), (expected.as_slice(), vec![5]));
    assert!(rows[2].problem.as_ref().unwrap().contains("no kernel") && rows[2].crew.is_none());
    assert_eq!(rows[4].crew.as_ref().unwrap(), &Parallelism::on(Device::Cuda(0)).to_string());
    assert_eq!(table(&[Device::Cpu], BOTH[0]).1, [0], "as the configuration has it");
    assert_eq!(table(&[Device::Mps], DtypeChoice::Auto).1, [0; 0], "what fails is not taken");

    let situation = Situation {
        memory: None,
        llm_here: false,
        workers: 1,
        uploads: 1,
        device: DeviceChoice::Only(Device::Cpu),
        dtype: BOTH[0],
    };
    let suggested: Vec<_> =
        suggest(&situation, &comparison).into_iter().map(|s| (s.setting, s.value)).collect();
    assert_eq!(suggested, [("LNSP_DEVICE", "auto".to_owned()), ("LNSP_DTYPE", "auto".to_owned())]);
}

#[test]
fn formats_are_those_that_a_device_multiplies_in_and_the_one_asked_for() {
    let (mps, cuda) = (Device::Mps, Device::Cuda(0));
    assert_eq!(formats(&[mps], DtypeChoice::Auto), [(mps, BOTH[0])]);
    assert_eq!(formats(&[mps], BOTH[1]), BOTH.map(|dtype| (mps, dtype)));
    assert_eq!(formats(&[cuda], DtypeChoice::Auto), BOTH.map(|dtype| (cuda, dtype)));
}

/// Runs the doctor; its exit code and its report.
pub fn report(data: &Path, flags: &[&str]) -> (Option<i32>, Value) {
    let base = ["doctor", "--json", "--data-dir", data.to_str().unwrap()];
    let (code, out, complaint) = run(&mut lnsp(&[&base[..], flags].concat()));
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("no report: {out}{complaint}")))
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn grade<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let check = check(report, name);
    (check["grade"].as_str().unwrap(), check["finding"].as_str().unwrap())
}

#[test]
fn a_machine_that_is_fit_is_found_so_and_nothing_is_left_behind() {
    let data = tempfile::tempdir().unwrap();
    // Where PostgreSQL's account can pass.
    fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let flags = ["--no-measure", "--port", "0", "--tmd-backend", "local"];
    let (code, found) = report(data.path(), &flags);
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    let names: Vec<&str> =
        found["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    let expected = [
        "configuration",
        "cores",
        "memory",
        "data folder",
        "disk",
        "libtorch",
        "model",
        "database",
        "LLM",
        "port",
        "open files",
    ];
    assert_eq!(names, expected);
    assert!(found["devices"].as_array().unwrap().is_empty());
    assert!(grade(&found, "libtorch").1.starts_with("2."), "{found:#}");
    assert!(grade(&found, "model").1.contains("384 dimensions"), "{found:#}");
    let settings = found["settings"].as_array().unwrap();
    let of = |name: &str| settings.iter().find(|setting| setting["name"] == name).unwrap();
    assert_eq!((&of("LNSP_PORT")["value"], &of("LNSP_PORT")["source"]), (&"0".into(), &"flag".into()));
    assert_eq!(of("LNSP_TMD_BACKEND")["source"], "flag");
    assert_eq!(of("LNSP_DTYPE")["source"], "default");
}

#[test]
fn the_table_of_this_machine_marks_one_device() {
    let data = tempfile::tempdir().unwrap();
    let flags = ["--port", "0", "--device", "cpu", "--dtype", "f32", "--tmd-backend", "local"];
    let (_, found) = report(data.path(), &flags);
    let devices = found["devices"].as_array().unwrap();
    let chosen: Vec<&Value> = devices.iter().filter(|row| row["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1, "{found:#}");
    assert_eq!((&chosen[0]["device"], &chosen[0]["dtype"]), (&"cpu".into(), &"f32".into()));
    assert!(chosen[0]["texts_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_stops_the_service_is_a_failure_with_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let with = |port: &str, flags: &[&str]| {
        report(data.path(), &[&["--no-measure", "--port", port][..], flags].concat())
    };
    let (code, found) = with("0", &["--embedding-model", "no-such-model"]);
    assert!(code == Some(1) && grade(&found, "model").0 == "failure", "{found:#}");
    assert!(grade(&found, "model").1.contains("no-such-model"));

    let (code, found) = with("0", &["--device", "cuda:99"]);
    assert!(code == Some(1) && grade(&found, "device").1.contains("cuda:99"), "{found:#}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // A server that closes every connection.
    std::thread::spawn(move || taken.incoming().for_each(drop));
    let (code, found) = with(&port, &[]);
    let (grade, finding) = grade(&found, "port");
    assert!(code == Some(1) && grade == "failure" && finding.contains("another program"), "{found:#}");
    assert!(check(&found, "port")["advice"].as_str().unwrap().contains("LNSP_PORT"));
}

#[test]
fn a_password_never_appears() {
    let data = tempfile::tempdir().unwrap();
    let dsn = format!("postgres://lnsp:{SECRET}@127.0.0.1:1/chunks");
    let base = ["doctor", "--no-measure", "--port", "0", "--data-dir", data.path().to_str().unwrap()];
    let shown = |command: &mut std::process::Command| {
        let (code, out, complaint) = run(command);
        assert_eq!(code, Some(1), "{out}{complaint}");
        assert!(!format!("{out}{complaint}").contains(SECRET), "{out}{complaint}");
        out
    };
    for json in [&["--json"][..], &[]] {
        let command = || lnsp(&[&base[..], json].concat());
        let out = shown(command().env("DATABASE_URL", &dsn));
        assert!(out.contains("password=***") && out.contains("environment"), "{out}");
        let out = shown(command().env("PG_DSN", &dsn));
        assert!(out.contains("PG_DSN") && out.contains("password=***"), "{out}");
        let out = shown(command().args(["--database-url", &dsn]));
        assert!(out.contains("flag"), "{out}");
        let out = shown(command().env("DATABASE_URL", format!("host=h password=a {SECRET}=b")));
        assert!(out.contains("check DATABASE_URL"), "{out}");
    }
}

#[test]
fn a_language_model_is_asked_what_it_has() {
    let latency = "1ms".parse::<Latency>().unwrap();
    let options = Options { slots: 1, latency, ..Options::default() };
    let llm = SimulatedLlm::start(options).unwrap();
    let data = tempfile::tempdir().unwrap();
    let with = |flags: &[&str]| {
        let base = ["--no-measure", "--port", "0", "--llm-endpoint", llm.url(), "--tmd-backend", "llm"];
        report(data.path(), &[&base[..], flags].concat())
    };
    let (_, found) = with(&[]);
    let (state, finding) = grade(&found, "LLM");
    assert!(state == "ok" && finding.contains("has llama3.1:8b"), "{found:#}");
    let (_, found) = with(&["--tmd-llm-model", "qwen3:4b"]);
    let (state, finding) = grade(&found, "LLM");
    assert!(state == "warning" && finding.contains("qwen3:4b"), "{found:#}");
    let (code, found) = with(&["--tmd-llm-model", "qwen3:4b", "--tmd-on-failure", "reject"]);
    assert!(code == Some(1) && grade(&found, "LLM").0 == "failure", "{found:#}");
    llm.stop();
}

#[actix_web::test]
async fn beside_a_running_service_it_sees_its_port_its_database_and_its_model() {
    let data = DataFolder::with_cluster();
    let (_, before) = report(data.path(), &["--no-measure", "--port", "0"]);
    assert!(grade(&before, "database").1.contains("not running"), "{before:#}");

    let service = Service::start(data.path(), &[]);
    let port = service.url.rsplit(':').next().unwrap().to_owned();
    let (code, found) = report(data.path(), &["--no-measure", "--port", &port]);
    assert_eq!(code, Some(0), "{found:#}");
    let (state, finding) = grade(&found, "port");
    assert!(state == "ok" && finding.contains("running lnsp: healthy, model all-minilm-l6-v2"), "{finding}");
    assert!(grade(&found, "database").1.contains("fsync=on full_page_writes=on"), "{found:#}");
    assert!(grade(&found, "stored model").1.contains("the configured one"), "{found:#}");

    // The same weights and another tokenizer: another model.
    let (whole, other) = (models().join("all-minilm-l6-v2"), data.path().join("other-model"));
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(&whole).unwrap() {
        let from = entry.unwrap().path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&from, other.join(from.file_name().unwrap())).unwrap();
    }
    let tokenizer = fs::read_to_string(whole.join("tokenizer.json")).unwrap();
    fs::remove_file(other.join("tokenizer.json")).unwrap();
    fs::write(other.join("tokenizer.json"), tokenizer + "\n").unwrap();
    let with_other = || {
        report(data.path(), &["--no-measure", "--port", &port, "--embedding-model", other.to_str().unwrap()])
    };
    let (code, found) = with_other();
    assert!(code == Some(0) && grade(&found, "stored model").1.contains("without vectors"), "{found:#}");
    let sample = crate::root().join("tests/data/sample.ndjson");
    let (code, ..) = run(&mut lnsp(&["ingest", "--url", &service.url, sample.to_str().unwrap()]));
    assert_eq!(code, Some(0));
    let (code, found) = with_other();
    assert!(code == Some(1) && grade(&found, "stored model").0 == "failure", "{found:#}");

    // The service is an embedding server, too; without it there is none.
    let elsewhere = tempfile::tempdir().unwrap();
    let asking =
        |url: &str| report(elsewhere.path(), &["--no-measure", "--port", "0", "--embedding-endpoint", url]);
    let (_, found) = asking(&service.url);
    let (state, finding) = grade(&found, "model");
    assert!(
        state == "ok" && finding.contains(&service.url) && finding.contains("384 dimensions"),
        "{finding}"
    );
    let url = service.url.clone();
    assert!(service.terminate().success());
    let (code, found) = asking(&url);
    let (state, finding) = grade(&found, "model");
    assert!(code == Some(1) && state == "failure" && finding.contains(&url), "{finding}");
}
