//! The table of routes. The server, `Allow`, HEAD, the metric labels and the list at `/` follow from it.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::{
    chunks, cpesh, dead_letters, embed, export, ingest, ops, parameters, path, retag, router, search, stored,
    verify,
};
use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError, Route as Handler, web};
use serde_json::json;

/// A method of a path.
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`. A path with GET also has HEAD.
    pub method: Method,
    /// The path of the request. A segment in braces stands for a name, percent-encoded.
    pub path: &'static str,
    /// The label in metrics.
    pub label: &'static str,
    handler: fn() -> Handler,
}

const fn get(path: &'static str, handler: fn() -> Handler) -> Route {
    Route { method: Method::GET, path, label: path, handler }
}

const fn post(path: &'static str, handler: fn() -> Handler) -> Route {
    Route { method: Method::POST, path, label: path, handler }
}

const fn put(path: &'static str, handler: fn() -> Handler) -> Route {
    Route { method: Method::PUT, path, label: path, handler }
}

const fn delete(path: &'static str, handler: fn() -> Handler) -> Route {
    Route { method: Method::DELETE, path, label: path, handler }
}

/// Every route of the service.
pub const ROUTES: &[Route] = &[
    get("/", || web::to(about)),
    post("/ingest", || web::to(ingest::ingest)),
    post("/search", || web::to(search::search)),
    post("/embed", || web::to(embed::embed)),
    post("/embed/single", || web::to(embed::single)),
    post("/route", || web::to(router::route)),
    post("/route/batch", || web::to(router::route_batch)),
    post("/extract-tmd", || web::to(router::extract)),
    post("/select-lane", || web::to(router::select_lane)),
    delete("/chunks", || web::to(chunks::delete)),
    get("/chunks/{id}", || web::to(stored::chunk)),
    delete("/chunks/{id}", || web::to(stored::delete_chunk)),
    get("/documents", || web::to(stored::documents)),
    put("/documents/{id}", || web::to(ingest::replace_document)),
    delete("/documents/{id}", || web::to(stored::delete_document)),
    get("/documents/{id}/chunks", || web::to(stored::document_chunks)),
    get("/datasets", || web::to(stored::datasets)),
    delete("/datasets/{name}", || web::to(stored::delete_dataset)),
    post("/retag", || web::to(retag::retag)),
    post("/cpesh", || web::to(cpesh::cpesh)),
    post("/verify", || web::to(verify::verify)),
    get("/export", || web::to(export::export)),
    get("/dead-letters", || web::to(dead_letters::dead_letters)),
    get("/health", || web::to(ops::health)),
    get("/ready", || web::to(ops::ready)),
    get("/stats", || web::to(ops::stats)),
    get("/metrics", || web::to(ops::metrics)),
];

/// Registers all routes. A known path answers other methods with 405 and `Allow`, an unknown path answers 404.
pub fn configure(config: &mut web::ServiceConfig) {
    for (position, first) in ROUTES.iter().enumerate() {
        if ROUTES[..position].iter().any(|earlier| earlier.path == first.path) {
            continue;
        }
        let mut resource = web::resource(first.path).default_service(web::to(method_not_allowed));
        for route in of_path(first.path) {
            resource = resource.route((route.handler)().method(route.method.clone()));
            if route.method == Method::GET {
                // The framework sends no body in answer to HEAD.
                resource = resource.route((route.handler)().method(Method::HEAD));
            }
        }
        config.service(resource);
    }
    config.default_service(web::to(not_found));
}

/// The metric label of a path: a closed set, in which a name is `{id}` or `{name}`.
pub fn label(path: &str) -> &'static str {
    of_path(path).next().map_or("other", |route| route.label)
}

/// The methods of a path, for `Allow`.
pub fn allowed(path: &str) -> String {
    let methods = of_path(path).flat_map(|route| {
        let head = (route.method == Method::GET).then_some("HEAD");
        [Some(route.method.as_str()), head].into_iter().flatten()
    });
    methods.collect::<Vec<_>>().join(", ")
}

fn of_path(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| path::is_of_pattern(route.path, path))
}

/// Handles `GET /`: the self-description of the old service.
async fn about() -> HttpResponse {
    let others = ROUTES.iter().filter(|route| route.path != "/");
    let endpoints: Vec<String> = others.map(|route| format!("{} {}", route.method, route.path)).collect();
    HttpResponse::Ok().json(json!({
        "name": "LNSP Chunk Ingestion API", "version": env!("CARGO_PKG_VERSION"),
        "description": env!("CARGO_PKG_DESCRIPTION"), "endpoints": endpoints,
    }))
}

async fn method_not_allowed(request: HttpRequest) -> HttpResponse {
    let allowed = allowed(request.path());
    let method = parameters::quoted(request.method().as_str());
    let message = format!("{method} is not allowed here; expected {allowed}");
    let mut response = ApiError::new(ErrorCode::MethodNotAllowed, message).error_response();
    if let Ok(value) = header::HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    let message = format!("there is nothing at {}", parameters::quoted(request.path()));
    ApiError::new(ErrorCode::NotFound, message).error_response()
}
