//! The database: our own, looked at without starting it, or the configured one; and whose vectors it holds.

use super::Check;
use crate::config::Config;
use crate::model::ModelIdentity;
use crate::store::managed::survey;
use crate::store::{DatabaseInfo, Dsn, StoreError, inspect};

pub async fn checks(config: &Config, model: Option<&ModelIdentity>) -> Vec<Check> {
    let name = "database";
    let (whose, dsn) = match config.database() {
        Some(text) => match text.parse::<Dsn>() {
            Ok(dsn) => (format!("as configured, {dsn}"), dsn),
            Err(error) => return vec![Check::failure(name, error, "")],
        },
        None => match survey(&config.data_dir) {
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
        Ok(look) => [Some(server(name, &whose, &look)), stored(look, model)].into_iter().flatten().collect(),
        Err(error) => vec![Check::failure(name, error, "start it, or correct DATABASE_URL (or PG_DSN)")],
    }
}

fn server(name: &'static str, whose: &str, look: &DatabaseInfo) -> Check {
    let settings: Vec<String> =
        look.flushing.iter().map(|(setting, value)| format!("{setting}={value}")).collect();
    let finding = format!("{whose}: {}, {}", look.version, settings.join(" "));
    match &look.refused {
        Some(error) => Check::failure(name, format!("{finding}; {error}"), ""),
        None => Check::ok(name, finding),
    }
}

/// Whether the vectors in it are of the model that is configured.
fn stored(look: DatabaseInfo, model: Option<&ModelIdentity>) -> Option<Check> {
    let name = "stored model";
    let Some(stored) = look.model else {
        return Some(Check::ok(name, "none yet: the store takes the first one"));
    };
    let wanted = model?;
    Some(match stored.fingerprint == wanted.fingerprint {
        true => Check::ok(name, format!("the configured one, {}", stored.name)),
        false if !look.has_vectors => {
            Check::ok(name, format!("{stored}, without vectors: the store takes {wanted}"))
        }
        false => {
            let error = StoreError::OtherModel { stored: Box::new(stored), wanted: Box::new(wanted.clone()) };
            Check::failure(name, error, "")
        }
    })
}
