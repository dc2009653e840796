//! The admin API over real sockets, beside a real proxy.

mod test_proxy;

use serde_json::Value;
use test_proxy::{Response, TestProxy};

fn problem(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let body: Value = response.json();
    assert_eq!(body["status"], status);
    assert_eq!(body["type"], "about:blank");
    body
}

#[tokio::test]
async fn pools_and_server_have_the_specified_fields() {
    let proxy = TestProxy::start().await;
    for _ in 0..6 {
        assert_eq!(proxy.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.status, 200);
    }
    let response = proxy.get("/v1/pools").await;
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let pools: Value = response.json();
    let pool = &pools["pools"][0];
    assert_eq!((&pool["name"], &pool["algorithm"]), (&"default".into(), &"round_robin".into()));
    assert_eq!(pool["healthStatus"]["total"], 2);
    let shares = &pool["loadDistribution"];
    assert_eq!(shares["deviation"], 0.0);
    for (share, id) in shares["destinations"].as_array().unwrap().iter().zip(["a", "b\"\\/é"]) {
        assert_eq!(share["id"], id);
        assert_eq!((&share["share"], &share["intendedShare"]), (&0.5.into(), &0.5.into()));
        assert_eq!((&share["weight"], &share["effectiveWeight"]), (&1.into(), &1.0.into()));
        assert_eq!(share["inFlight"], 0);
    }
    assert_eq!(proxy.get("/v1/pools/default").await.json()["name"], "default");
    let d = proxy.get("/v1/pools/default/destinations/b%22%5C%2F%C3%A9").await.json();
    assert_eq!((&d["status"], &d["counts"]["requests"]), (&"serving".into(), &3.into()));
    assert_eq!(d["reason"], Value::Null);
    assert_ne!(d["score"], 0.0, "its checks pass, if there was one");
    assert_eq!(d["counts"]["responses"]["2xx"], 3);
    assert!(d["counts"]["meanResponseMs"].as_f64().unwrap() > 0.0);
    let server = proxy.get("/v1/server").await.json();
    assert_eq!((&server["state"], &server["workers"]), (&"running".into(), &1.into()));
    assert_eq!(server["listeners"][0]["addresses"][0], proxy.address.to_string());
    assert_eq!(server["listeners"][0]["connectionsTotal"], 6);
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn passed_check_has_its_latency() {
    let proxy = TestProxy::start().await;
    let check = proxy.poll_until("/v1/pools/default/destinations/a", |d| !d["lastCheck"].is_null()).await;
    let check = &check["lastCheck"];
    assert_eq!((&check["ok"], &check["detail"]), (&true.into(), &"".into()));
    assert!(check["latencyMs"].as_f64().unwrap() > 0.0);
    let at = check["at"].as_u64().unwrap();
    assert!(at > 1_600_000_000_000, "milliseconds since 1970: {at}");
}

#[tokio::test]
async fn unknown_paths_and_forbidden_requests_are_problems() {
    let proxy = TestProxy::start().await;
    problem(&proxy.get("/nothing").await, 404);
    let body = problem(&proxy.get("/v1/pools/defautl").await, 404);
    assert!(body["detail"].as_str().unwrap().contains("expected one of: default"), "{body}");
    problem(&proxy.get("/v1/pools/default/destinations/c").await, 404);
    problem(&proxy.get("/v1/pools/%ff").await, 400);
    problem(&proxy.get("/metrics?metrics=a&metrics=b").await, 400);
    let wrong = proxy.get("/v1/config:reload").await;
    problem(&wrong, 405);
    assert_eq!(wrong.header("allow"), Some("POST"));
    problem(&proxy.request("POST", "/v1/pools", "", "").await, 405);
    problem(&proxy.request("GET", "/v1/pools", "Host: rebound.example\r\n", "").await, 403);
    problem(&proxy.request("POST", "/v1/config:reload", "Origin: https://evil.example\r\n", "").await, 403);
    problem(&proxy.request("POST", "/v1/config:reload", "Sec-Fetch-Site: cross-site\r\n", "").await, 403);
    let large = format!("Content-Length: {}\r\n", 1024 * 1024 + 1);
    problem(&proxy.request("POST", "/v1/config:reload", &large, &"x".repeat(1024 * 1024 + 1)).await, 413);
    assert_eq!(proxy.get("/v1/server").await.json()["reloads"]["succeeded"], 0);
}

#[tokio::test]
async fn reload_is_applied_or_rejected_with_all_problems() {
    let proxy = TestProxy::start().await;
    proxy.set_config(&proxy.config().replace("round_robin", "p2c"));
    let response = proxy.request("POST", "/v1/config:reload", "", "").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["applied"], true);
    proxy.poll_until("/v1/pools/default", |pool| pool["algorithm"] == "p2c").await;
    proxy.set_config("listen: 127.0.0.1:0\ndestinations: []\nlaod_balancer: {}\n");
    let body = problem(&proxy.request("POST", "/v1/config:reload", "", "").await, 422);
    assert!(body["problems"].as_array().unwrap().len() > 1, "{body}");
    assert!(body["problems"][0]["line"].is_number() && body["problems"][0]["code"].is_string());
    assert!(body["detail"].as_str().unwrap().contains("laod_balancer"));
    let reloads = &proxy.get("/v1/server").await.json()["reloads"];
    assert_eq!((&reloads["succeeded"], &reloads["failed"]), (&1.into(), &1.into()));
    assert_eq!(reloads["lastSucceeded"], false);
}

#[tokio::test]
async fn draining_ends_readiness_but_not_liveness() {
    let proxy = TestProxy::start().await;
    assert_eq!(proxy.get("/healthz").await.status, 200);
    assert_eq!(proxy.get("/readyz").await.status, 200);
    proxy.handle.drain();
    assert_eq!(proxy.get("/healthz").await.status, 200);
    assert_eq!(proxy.get("/readyz").await.status, 503);
    assert_eq!(proxy.get("/v1/server").await.json()["state"], "draining");
    problem(&proxy.request("POST", "/v1/config:reload", "", "").await, 409);
}

#[tokio::test]
async fn only_loopback_addresses_are_bound() {
    let error = plimsoll_admin::bind("0.0.0.0:0".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("other machines"), "{error}");
    let listener = plimsoll_admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = plimsoll_admin::bind(listener.address()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}

#[tokio::test]
async fn destination_with_excessive_reported_load_is_overloaded_until_it_recovers() {
    let proxy = TestProxy::start().await;
    let text = proxy.config();
    proxy.set_config(&text.replace("algorithm: round_robin,", "algorithm: round_robin, overload: true,"));
    assert_eq!(proxy.request("POST", "/v1/config:reload", "", "").await.status, 200);
    let report = async |path: &str, body: &str| {
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        proxy.request("POST", path, &head, body).await
    };
    let load = "/v1/pools/default/destinations/a/load";
    assert_eq!(report(load, r#"{"cpu": 0.95, "memory": 0.25, "queue": 3, "fans": 4}"#).await.status, 204);
    let body = proxy.poll_until("/v1/pools/default/destinations/a", |d| d["status"] == "overloaded").await;
    assert_eq!(body["reason"], "reported load is 95 %");
    assert_eq!(
        (&body["load"]["gauges"]["queue"], &body["load"]["gauges"]["memory"]),
        (&3.0.into(), &0.25.into())
    );
    let metrics = proxy.get("/metrics?metrics=plimsoll_destination_").await.body;
    for line in [
        r#"plimsoll_destination_load_score{pool="default",destination="a"} 0.95"#,
        r#"plimsoll_destination_resource_usage_ratio{pool="default",destination="a",resource="memory"} 0.25"#,
        r#"plimsoll_destination_status{pool="default",destination="a",status="overloaded"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    for _ in 0..4 {
        assert_eq!(proxy.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.status, 200);
    }
    let d = proxy.get("/v1/pools/default/destinations/a").await.json();
    assert_eq!((&d["counts"]["requests"], &d["counts"]["checksFailed"]), (&0.into(), &0.into()));
    assert_eq!(report(load, r#"{"cpu": 0.5}"#).await.status, 204);
    proxy.poll_until("/v1/pools/default/destinations/a", |d| d["status"] == "serving").await;
    let wrong = |text: &str, response: &Response, status| {
        let body = problem(response, status)["detail"].to_string();
        assert!(body.contains(text), "{body}");
    };
    wrong("`cpu`: expected a number", &report(load, r#"{"cpu": -1}"#).await, 422);
    wrong("expected at least one of cpu", &report(load, r#"{"fans": 4}"#).await, 422);
    wrong("has no destination", &report("/v1/pools/default/destinations/c/load", r#"{"cpu": 1}"#).await, 404);
    wrong("no pool", &report("/v1/pools/x/destinations/c/load", r#"{"cpu": 1}"#).await, 404);
    problem(&report(load, r#"{"cpu": "high"}"#).await, 400);
    problem(&proxy.get(load).await, 405);
}

#[tokio::test]
async fn request_is_explained_without_being_sent() {
    let proxy = TestProxy::start().await;
    let explain = async |request: Value| {
        let body = request.to_string();
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        proxy.request("POST", "/v1/explain", &head, &body).await
    };
    let url = format!("http://{}/x?y=1", proxy.address);
    let body = explain(serde_json::json!({"method": "GET", "url": url, "headers": ["x-a: 1"]})).await;
    assert_eq!(body.status, 200, "{body:?}");
    let body = body.json();
    assert_eq!((&body["pool"], &body["algorithm"]), (&"default".into(), &"round_robin".into()));
    assert_eq!((&body["winner"], &body["next"][0]), (&"a".into(), &"b\"\\/é".into()));
    assert_eq!((&body["decidedBy"], &body["refused"]), (&"algorithm".into(), &Value::Null));
    let stages: Vec<&str> =
        body["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(
        stages,
        ["route", "admission", "health", "load assessment", "algorithm", "assignment", "failover"]
    );
    assert_eq!(body["candidates"].as_array().unwrap().len(), 2);
    let again = explain(serde_json::json!({"url": url})).await.json();
    assert_eq!(again["winner"], "a", "explaining does not advance the rotation");
    let pools = proxy.get("/v1/pools").await.json();
    assert_eq!(pools["pools"][0]["destinations"][0]["counts"]["requests"], 0);
    let refused = explain(serde_json::json!({"method": "CONNECT", "url": url})).await.json();
    assert_eq!((&refused["refused"]["status"], &refused["winner"]), (&405.into(), &Value::Null));
    for wrong in [
        serde_json::json!({"url": "ftp://x/"}),
        serde_json::json!({"url": "http://127.0.0.1:1/"}),
        serde_json::json!({"url": url, "headers": ["no colon"]}),
        serde_json::json!({"url": url, "headers": ["a: b\r\nc: d"]}),
        serde_json::json!({"url": url, "form": "127.0.0.1"}),
        serde_json::json!({"url": url, "from": "unknown"}),
    ] {
        problem(&explain(wrong).await, 400);
    }
}

#[tokio::test]
async fn idle_and_slow_clients_never_keep_others_out() {
    let proxy = TestProxy::start().await;
    let mut idle = Vec::new();
    for start in
        ["", "GET / HT", "POST /v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"]
    {
        for _ in 0..200 {
            idle.push(proxy.open_admin(start).await);
        }
        assert_eq!(proxy.get("/healthz").await.status, 200, "{start:?}");
        assert_eq!(proxy.get("/v1/pools").await.status, 200, "{start:?}");
    }
}
