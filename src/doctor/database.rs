//! The database: the managed one, checked without starting it, or the configured one; and the model of its vectors.

use super::check::Check;
use crate::app::CONNECTIONS;
use crate::config::Config;
use crate::model::ModelIdentity;
use crate::store::managed;
use crate::store::{DatabaseInfo, Dsn, StoreError, inspect};

pub async fn checks(config: &Config, model: Option<&ModelIdentity>) -> Vec<Check> {
    let name = "database";
    let (whose, dsn) = match config.database() {
        Some(text) => match text.parse::<Dsn>() {
            Ok(dsn) => (as_configured(&dsn), dsn),
            Err(error) => return vec![Check::failure(name, error, "")],
        },
        None => match managed::inspect(&config.data_dir) {
            Ok(found) => {
                let own = format!("own, PostgreSQL {}", found.version);
                match found.running {
                    Some(dsn) => (format!("{own}, running"), dsn),
                    None if found.has_cluster => {
                        return vec![Check::ok(name, format!("{own}; not running: the service starts it"))];
                    }
                    None => return vec![Check::ok(name, format!("{own}; made at the first start"))],
                }
            }
            Err(error) => return vec![Check::failure(name, error, "")],
        },
    };
    match inspect(dsn).await {
        Ok(info) => {
            let found =
                [Some(server(name, &whose, &info)), connections(config, &info), stored(info, model, config)];
            found.into_iter().flatten().collect()
        }
        Err(error @ StoreError::Connect { .. }) => {
            vec![Check::failure(name, error, "start it, or correct DATABASE_URL (or PG_DSN)")]
        }
        Err(error) => vec![Check::failure(name, error, "")],
    }
}

fn as_configured(dsn: &Dsn) -> String {
    match dsn.ignored_driver() {
        Some(driver) => format!("as configured, {dsn} (the driver {driver} has no meaning here)"),
        None => format!("as configured, {dsn}"),
    }
}

fn server(name: &'static str, whose: &str, info: &DatabaseInfo) -> Check {
    let settings: Vec<String> =
        info.durability.iter().map(|(setting, value)| format!("{setting}={value}")).collect();
    let finding = format!("{whose}: {}, {}", info.version, settings.join(" "));
    Check::ok(name, finding)
}

/// Whether a server of the operator has room for the connections of the service. Our own has room for them.
fn connections(config: &Config, info: &DatabaseInfo) -> Option<Check> {
    let (free, wanted) = (info.free_connections, CONNECTIONS as i64);
    (config.database().is_some() && free < wanted).then(|| {
        let finding = format!("the server has {free} connections left, and the service holds up to {wanted}");
        let advice =
            "close others, or raise max_connections and restart it; until then chunks wait for a connection";
        Check::warning("connections", finding, advice)
    })
}

/// Whether its vectors are of the configured model.
fn stored(info: DatabaseInfo, model: Option<&ModelIdentity>, config: &Config) -> Option<Check> {
    let name = "stored model";
    let Some(stored) = info.model else {
        return Some(Check::ok(name, "none yet: the store takes the first one"));
    };
    let wanted = model?;
    Some(match stored.fingerprint == wanted.fingerprint {
        true => Check::ok(name, format!("the configured one, {}", stored.name)),
        false if !info.has_vectors => {
            Check::ok(name, format!("{stored}, without vectors: the store takes {wanted}"))
        }
        false if config.embedding_model.is_none() && config.embedding_endpoint.is_none() => {
            Check::ok(name, format!("{stored}, which the service takes: no other one is configured"))
        }
        false => {
            let error = StoreError::OtherModel { stored: Box::new(stored), wanted: Box::new(wanted.clone()) };
            Check::failure(name, error, "")
        }
    })
}
