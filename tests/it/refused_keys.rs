//! A key that the database refuses to look up fails alone: the other chunks of its group go on.

use crate::support::test_service::{TestService, numbered, tally};

/// Behind the name of the table is a view now, which refuses one id where it meets it.
const REFUSE: &str = "
    CREATE FUNCTION refuse(id text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF id = 'n7' THEN RAISE EXCEPTION 'as told' USING ERRCODE = '22023'; END IF;
        RETURN true;
    END $$;
    ALTER TABLE chunks RENAME TO chunks_behind;
    CREATE VIEW chunks AS SELECT * FROM chunks_behind WHERE refuse(id)";

#[actix_web::test]
async fn a_key_that_the_database_refuses_fails_alone() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..20)).await), (20, 0, 0));
    service.database.run(REFUSE).await;
    let answer = service.stream(numbered(0..200)).await;
    assert_eq!(tally(&answer), (180, 19, 1));
    let rejected = answer.iter().find(|line| line["status"] == "error").unwrap();
    let error = &rejected["error"];
    assert_eq!((&rejected["line"], &error["code"]), (&8.into(), &"store_failed".into()));
    assert_eq!(error["retryable"], false, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("22023") && message.contains("id or the dataset"), "{message}");
    assert_eq!(service.database.number("SELECT count(*) FROM chunks_behind").await, 200);
    service.stop().await;
}
