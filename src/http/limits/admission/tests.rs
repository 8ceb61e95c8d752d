//! Permits and their limits.

use super::*;

fn admission() -> Admission {
    let cut_after = Duration::MAX;
    Admission::new(Limits { uploads: 2, requests: 3, request_bytes: 10_000, cut_after, ..Limits::default() })
}

#[tokio::test]
async fn uploads_and_requests_do_not_keep_each_other_out() {
    let admission = admission();
    let take = async |request, count: usize| {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(admission.acquire(request).await.ok().unwrap());
        }
        permits
    };
    let (upload, request) = (AdmissionRequest::Upload, AdmissionRequest::Request(10));
    let uploads = take(upload, 2).await;
    assert_eq!(admission.acquire(upload).await.err(), Some(Refusal::Uploads));
    let requests = take(request, 3).await;
    assert_eq!(admission.acquire(request).await.err(), Some(Refusal::Requests));
    assert_eq!((admission.would_refuse(upload), admission.in_use()), (Some(Refusal::Uploads), 5));
    drop(uploads);
    assert_eq!((admission.would_refuse(upload), admission.in_use()), (None, 3));
    assert_eq!(admission.would_refuse(request), Some(Refusal::Requests));
    drop(requests);
    assert_eq!((admission.would_refuse(request), admission.in_use()), (None, 0));
}

#[tokio::test]
async fn searches_are_bounded_in_number_and_their_answers_in_bytes() {
    let (searches, cut_after) = (2, Duration::MAX);
    let limits = Limits { searches, answer_bytes: 10_000, pages: 1, cut_after, ..Limits::default() };
    let admission = Admission::new(limits);
    let page = admission.acquire(AdmissionRequest::Page).await.ok().unwrap();
    assert_eq!(admission.acquire(AdmissionRequest::Page).await.err(), Some(Refusal::Pages));
    let first = admission.acquire(AdmissionRequest::Search).await.ok().unwrap();
    let second = admission.acquire(AdmissionRequest::Search).await.ok().unwrap();
    assert_eq!(admission.acquire(AdmissionRequest::Search).await.err(), Some(Refusal::Searches));
    assert_eq!(admission.would_refuse(AdmissionRequest::Request(10)), None);
    let answer = admission.acquire(AdmissionRequest::Answer(9_000)).await.ok().unwrap();
    let third = admission.acquire(AdmissionRequest::Answer(2_000)).await;
    assert_eq!((third.err(), admission.in_use()), (Some(Refusal::AnswerBytes), 3));
    drop((answer, first, second, page));
    let largest = admission.acquire(AdmissionRequest::Answer(1 << 40)).await.ok().unwrap();
    assert_eq!(admission.would_refuse(AdmissionRequest::Answer(1)), Some(Refusal::AnswerBytes));
    assert_eq!(admission.in_use(), 0);
    drop(largest);
}

#[tokio::test]
async fn bytes_are_counted_as_they_arrive_and_a_request_that_is_too_large_goes_alone() {
    let admission = admission();
    let request = AdmissionRequest::Request;
    let mut one = admission.acquire(request(9_000)).await.ok().unwrap();
    let mut two = admission.acquire(request(9_000)).await.ok().unwrap();
    let at_once = Duration::ZERO;
    assert_eq!(
        admission.requests().resize(&mut one, 9_000, at_once).await,
        Ok(()),
        "an announcement reserves nothing"
    );
    assert_eq!(admission.requests().resize(&mut two, 2_000, at_once).await, Err(Full::Bytes));
    assert_eq!(admission.acquire(request(2_000)).await.err(), Some(Refusal::RequestBytes));
    assert_eq!(admission.would_refuse(request(2_000)), Some(Refusal::RequestBytes));
    assert_eq!(admission.in_use(), 2, "a refused one holds no place");
    drop(two);
    assert_eq!(admission.requests().resize(&mut one, 1 << 40, at_once).await, Ok(()));
    assert_eq!(admission.acquire(request(1)).await.err(), Some(Refusal::RequestBytes));
    drop(one);
    assert!(admission.acquire(request(1)).await.is_ok());
}

#[tokio::test]
async fn slow_clients_give_way_to_others_in_number_and_in_bytes() {
    let cut_after = Duration::ZERO;
    let limits = Limits { requests: 3, request_bytes: 10_000, cut_after, ..Limits::default() };
    let admission = Admission::new(limits);
    let mut slow = Vec::new();
    for bytes in [4_000, 4_000, 1_000] {
        let mut permit = admission.acquire(AdmissionRequest::Request(bytes)).await.ok().unwrap();
        admission.requests().resize(&mut permit, bytes, Duration::ZERO).await.unwrap();
        slow.push(permit);
    }
    let cut = |permit: Permit| async {
        let _held = permit;
        admission.requests().read_body().wait(std::future::pending::<()>()).await
    };
    let slow = futures_util::future::join_all(slow.into_iter().map(cut));
    let honest = async {
        assert_eq!(admission.would_refuse(AdmissionRequest::Request(9_000)), None);
        let mut permit = admission.acquire(AdmissionRequest::Request(9_000)).await.ok().unwrap();
        admission.requests().resize(&mut permit, 10_000, Duration::ZERO).await
    };
    assert_eq!(tokio::join!(slow, honest), (vec![None; 3], Ok(())));
    assert_eq!(admission.in_use(), 0);
}
