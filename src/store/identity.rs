//! Brings the ids and hashes of rows up to date that an earlier version of the program wrote, so that a chunk which is
//! sent again is found. A row keeps its item, its number in the clock and its public name.

use super::clock::BEGIN_AS_ONLY_WRITER;
use super::read::{self, PlacementRow, json_text};
use super::schema::{change_clock, chunks, dead_letters};
use super::{Store, StoreError};
use crate::chunk::{Chunk, Draft, IDENTITY_VERSION};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

/// Rows of one transaction.
const PAGE: i64 = 500;

#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
struct OldRow {
    item: i64,
    dataset_source: String,
    id: String,
    cpe_id: Uuid,
    text: String,
    #[diesel(embed)]
    placement: PlacementRow,
    #[diesel(select_expression = json_text(chunks::metadata))]
    metadata: Option<String>,
}

impl Store {
    /// Does nothing when all rows are of this version. After an interruption the next start begins again.
    pub(super) async fn update_identities(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.get().await?;
        let version =
            change_clock::table.select(change_clock::identity_version).first(connection.conn()).await;
        let version: i16 = connection.checked(version)?;
        if version >= IDENTITY_VERSION {
            return connection.done(Ok(()));
        }
        tracing::info!("bringing the ids and hashes of the stored chunks up to date");
        let mut last = -1;
        loop {
            let begun = connection.conn().batch_execute(BEGIN_AS_ONLY_WRITER).await;
            connection.checked(begun)?;
            let page = chunks::table.filter(chunks::item.gt(last)).order(chunks::item).limit(PAGE);
            let page = page.select(OldRow::as_select()).load(connection.conn()).await;
            let page: Vec<OldRow> = connection.checked(page)?;
            let updated = match page.last() {
                Some(row) => {
                    last = row.item;
                    update_rows(connection.conn(), &rows(page)?).await
                }
                None => finish(connection.conn()).await.map(|()| last = i64::MAX),
            };
            connection.checked(updated)?;
            connection.commit().await?;
            if last == i64::MAX {
                return connection.done(Ok(()));
            }
        }
    }
}

/// Item, id, content hash and details hash.
type Identity = (i64, String, [u8; 32], [u8; 32]);

fn rows(page: Vec<OldRow>) -> Result<Vec<Identity>, StoreError> {
    let identity = |row: OldRow| {
        let metadata = read::metadata(row.metadata)?;
        // A derived id is the public name. It is derived again; the public name stays.
        let id = Some(row.id).filter(|id| *id != row.cpe_id.to_string());
        let draft = Draft {
            id,
            dataset: row.dataset_source.into(),
            text: row.text,
            placement: row.placement.into(),
            metadata,
            ..Draft::default()
        };
        let chunk = Chunk::of_stored(draft);
        Ok((row.item, chunk.key.id.to_string(), chunk.content_hash, chunk.details_hash))
    };
    page.into_iter().map(identity).collect()
}

/// Updates the dead letters, and says that everything is of this version.
async fn finish(conn: &mut AsyncPgConnection) -> QueryResult<()> {
    let mut last = -1;
    loop {
        let page = dead_letters::table
            .select((dead_letters::letter, dead_letters::dataset_source, dead_letters::input))
            .filter(dead_letters::letter.gt(last))
            .order(dead_letters::letter)
            .limit(PAGE);
        let page = page.load::<(i64, String, Vec<u8>)>(conn).await?;
        let Some((letter, ..)) = page.last() else { break };
        last = *letter;
        for (letter, dataset, input) in page {
            // What another program wrote stays as it is.
            let Some(chunk) = Chunk::of_sent(&dataset, &input) else { continue };
            let new = (
                dead_letters::id.eq(&*chunk.key.id),
                dead_letters::content_hash.eq(chunk.content_hash.as_slice()),
            );
            let row = dead_letters::table.filter(dead_letters::letter.eq(letter));
            diesel::update(row).set(new).execute(conn).await?;
        }
    }
    let version = change_clock::identity_version.eq(IDENTITY_VERSION);
    diesel::update(change_clock::table).set(version).execute(conn).await.map(drop)
}

async fn update_rows(conn: &mut AsyncPgConnection, rows: &[Identity]) -> QueryResult<()> {
    let update = diesel::sql_query(
        "UPDATE chunks SET id = new.id, content_hash = new.content_hash, details_hash = new.details_hash
         FROM unnest($1, $2, $3, $4) AS new (item, id, content_hash, details_hash) WHERE chunks.item = new.item",
    );
    let update = update
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &*row.1).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(rows.iter().map(|row| row.2.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(rows.iter().map(|row| row.3.as_slice()).collect::<Vec<_>>());
    update.execute(conn).await.map(drop)
}
