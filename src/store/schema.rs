// @generated automatically by Diesel CLI.

diesel::table! {
    change_clock (single) {
        single -> Bool,
        seq -> Int8,
        next_item -> Int8,
        store_id -> Uuid,
        model_id -> Nullable<Int4>,
        identity_version -> Int2,
        history -> Nullable<Uuid>,
    }
}

diesel::table! {
    chunk_access (item) {
        item -> Int8,
        count -> Int8,
        last_at -> Timestamptz,
    }
}

diesel::table! {
    chunk_cpesh (item) {
        item -> Int8,
        concept_text -> Nullable<Text>,
        probe_question -> Nullable<Text>,
        expected_answer -> Nullable<Text>,
        soft_negatives -> Array<Nullable<Text>>,
        hard_negatives -> Array<Nullable<Text>>,
        source -> Text,
        model -> Nullable<Text>,
        took_us -> Nullable<Int8>,
        failure -> Nullable<Text>,
    }
}

diesel::table! {
    chunk_vectors (item, model_id, kind) {
        item -> Int8,
        model_id -> Int4,
        kind -> Text,
        vector -> Bytea,
    }
}

diesel::table! {
    chunks (dataset_source, id) {
        dataset_source -> Text,
        id -> Text,
        cpe_id -> Uuid,
        item -> Int8,
        seq -> Int8,
        content_hash -> Bytea,
        text -> Text,
        document_id -> Nullable<Text>,
        chunk_index -> Int8,
        source_document -> Nullable<Text>,
        article_title -> Nullable<Text>,
        article_index -> Nullable<Int8>,
        parent_cpe_ids -> Array<Nullable<Text>>,
        child_cpe_ids -> Array<Nullable<Text>>,
        batch_id -> Nullable<Text>,
        metadata -> Nullable<Jsonb>,
        domain_code -> Nullable<Int2>,
        task_code -> Nullable<Int2>,
        modifier_code -> Nullable<Int2>,
        tmd_source -> Text,
        tmd_model -> Nullable<Text>,
        domain_confidence -> Nullable<Float4>,
        task_confidence -> Nullable<Float4>,
        modifier_confidence -> Nullable<Float4>,
        tmd_took_us -> Nullable<Int8>,
        truncated -> Bool,
        created_at -> Timestamptz,
        tmd_failure -> Nullable<Text>,
        details_hash -> Nullable<Bytea>,
        unread -> Nullable<Float4>,
    }
}

diesel::table! {
    dead_letters (dataset_source, id) {
        dataset_source -> Text,
        id -> Text,
        letter -> Int8,
        content_hash -> Bytea,
        stage -> Text,
        cause -> Text,
        message -> Text,
        attempts -> Int8,
        times -> Int8,
        input -> Bytea,
        batch_id -> Nullable<Text>,
        first_failed_at -> Timestamptz,
        last_failed_at -> Timestamptz,
    }
}

diesel::table! {
    models (model_id) {
        model_id -> Int4,
        name -> Text,
        recipe -> Text,
        fingerprint -> Text,
        dims -> Int4,
        created_at -> Timestamptz,
        location -> Nullable<Text>,
    }
}

diesel::table! {
    question_tombstones (seq) {
        seq -> Int8,
        item -> Int8,
    }
}

diesel::table! {
    tombstones (seq) {
        seq -> Int8,
        item -> Int8,
        cpe_id -> Uuid,
        deleted_at -> Timestamptz,
    }
}

diesel::joinable!(change_clock -> models (model_id));
diesel::joinable!(chunk_vectors -> models (model_id));

diesel::allow_tables_to_appear_in_same_query!(
    change_clock,
    chunk_access,
    chunk_cpesh,
    chunk_vectors,
    chunks,
    dead_letters,
    models,
    question_tombstones,
    tombstones,
);
