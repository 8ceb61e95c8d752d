//! The table of routes: what each path answers to each method, and what the state of the service says.

use crate::support::test_service::{TestService, client, overrides};
use crate::support::wait::until;
use lnsp_ingest::http::{ROUTES, allowed};
use reqwest::{Method, header};
use serde_json::json;

#[actix_web::test]
async fn head_answers_as_get_does_without_a_body() {
    let service = TestService::scripted().await;
    for route in ROUTES.iter().filter(|route| route.method == Method::GET.as_str()) {
        let url = format!("{}{}", service.url, route.path);
        let get = client().get(&url).send().await.unwrap();
        let head = client().head(&url).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{}", route.path);
        assert_eq!(head.headers().get(header::CONTENT_TYPE), get.headers().get(header::CONTENT_TYPE));
        assert!(!get.bytes().await.unwrap().is_empty(), "{}", route.path);
        assert_eq!(head.bytes().await.unwrap().len(), 0, "{}", route.path);
    }
    service.stop().await;
}

#[actix_web::test]
async fn another_method_is_refused_with_those_that_are_allowed() {
    let service = TestService::scripted().await;
    for route in ROUTES {
        for method in [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH] {
            let allow = allowed(route.path);
            if allow.split(", ").any(|known| known == method.as_str()) {
                continue;
            }
            let request = client().request(method.clone(), format!("{}{}", service.url, route.path));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 405, "{method} {}", route.path);
            assert_eq!(answer.headers().get(header::ALLOW).unwrap(), allow.as_str());
            if method != Method::HEAD {
                let body: serde_json::Value = answer.json().await.unwrap();
                assert_eq!(body["error"]["code"], "method_not_allowed");
            }
        }
    }
    assert_eq!((allowed("/ingest"), allowed("/health")), ("POST".to_owned(), "GET, HEAD".to_owned()));
    let (status, answer) = service.get("/nothing").await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")));
    service.stop().await;
}

#[actix_web::test]
async fn the_list_at_the_root_is_the_table() {
    let service = TestService::scripted().await;
    let (_, about) = service.get("/").await;
    let listed: Vec<_> =
        about["endpoints"].as_array().unwrap().iter().map(|e| e.as_str().unwrap().to_owned()).collect();
    let table: Vec<_> = ROUTES[1..].iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(listed, table);
    service.stop().await;
}

#[actix_web::test]
async fn health_says_whether_the_index_answers() {
    let service = TestService::build(overrides(), &[]).await;
    let (_, health) = service.get("/health").await;
    assert_eq!((&health["faiss"], &health["tmd_router_api"]), (&json!(true), &json!(true)));
    service.state.index.close(false).await.unwrap();
    until("the index is closed", || !service.state.index.is_open()).await;
    let (_, health) = service.get("/health").await;
    assert_eq!((&health["faiss"], &health["tmd_router_api"]), (&json!(false), &json!(true)));
    service.abandon().await;
}
