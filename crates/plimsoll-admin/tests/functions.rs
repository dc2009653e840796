//! The specification's functions over HTTP, for pools and for destinations of the call.

#![allow(clippy::unwrap_used)] // A test's helpers may do what a test may.

mod test_proxy;

use serde_json::{Value, json};
use test_proxy::{Response, TestProxy};

async fn post(proxy: &TestProxy, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    proxy.request("POST", path, &head, &body).await
}

async fn ok(proxy: &TestProxy, path: &str, body: Value) -> Value {
    let response = post(proxy, path, &body).await;
    assert_eq!(response.status, 200, "{path} {body}: {response:?}");
    response.json()
}

async fn problem(proxy: &TestProxy, path: &str, body: Value, status: u16) -> String {
    let response = post(proxy, path, &body).await;
    assert_eq!(response.status, status, "{path} {body}: {response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    response.json()["detail"].as_str().unwrap().to_owned()
}

/// Returns an address that is bound but not listening.
fn closed() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn balance_rotates_and_reports_the_state_of_the_pool() {
    let proxy = TestProxy::start().await;
    let mut chosen = Vec::new();
    for _ in 0..4 {
        let body = ok(&proxy, "/v1/balance", json!({"pool": "default"})).await;
        chosen.push(body["selectedDestination"]["id"].as_str().unwrap().to_owned());
        for field in ["loadDistribution", "healthStatus", "performance", "recommendations"] {
            assert!(!body[field].is_null(), "{field}");
        }
        assert_eq!(body["healthStatus"]["state"], "healthy");
    }
    assert_eq!(chosen.iter().filter(|id| *id == "a").count(), 2, "{chosen:?}");
    let body = ok(&proxy, "/v1/balance", json!({"pool": "default", "key": "session-7"})).await;
    assert!(body["selectedDestination"]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(body["performance"]["samples"], 0, "no outcome was reported");
    assert_eq!(body["performance"]["responseTimeMs"], Value::Null);
    assert_eq!(
        body["loadDistribution"]["destinations"][0]["inFlight"], 0,
        "the API does not hold an assignment"
    );
    proxy.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    let body = ok(&proxy, "/v1/balance", json!({"pool": "default"})).await;
    assert_eq!(
        (&body["performance"]["samples"], &body["performance"]["errorRate"]),
        (&1.into(), &0.0.into())
    );
    assert!(body["performance"]["responseTimeMs"]["p99"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn balance_keeps_its_state_between_calls_with_the_same_destinations() {
    let proxy = TestProxy::start().await;
    let call = json!({
        "destinations": [{"id": "big", "address": "10.9.8.1:80", "weight": 2}, {"id": "small", "address": "10.9.8.2:80"}],
        "config": {"algorithm": "weighted_round_robin"},
    });
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let body = ok(&proxy, "/v1/balance", call.clone()).await;
        chosen.push(body["selectedDestination"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(chosen, ["big", "small", "big", "big", "small", "big"]);
}

#[tokio::test]
async fn invalid_calls_are_problems() {
    let proxy = TestProxy::start().await;
    let a = json!([{"address": "127.0.0.1:1"}]);
    for path in ["/v1/balance", "/v1/health/monitor"] {
        assert!(problem(&proxy, path, json!({"pool": "defautl"}), 404).await.contains("default"));
        problem(&proxy, path, json!({}), 400).await;
        problem(&proxy, path, json!({"pool": "default", "destinations": a}), 400).await;
        problem(&proxy, path, json!({"pool": "default", "config": {}}), 400).await;
        problem(&proxy, path, json!({"destinations": a, "confg": {}}), 400).await;
        problem(&proxy, path, json!({"destinations": []}), 422).await;
        problem(&proxy, path, json!({"destinations": [{"address": "example.com:80"}]}), 422).await;
        problem(&proxy, path, json!({"destinations": a, "config": {"unknown": 1}}), 400).await;
        problem(&proxy, path, json!({"destinations": a, "key": "x"}), 400).await;
    }
    let hasty = json!({"destinations": a, "config": {"checkInterval": 1}});
    assert!(problem(&proxy, "/v1/health/monitor", hasty, 422).await.contains("check_interval"));
    let later = json!({"destinations": a, "config": {"dynamicAdjustment": true}});
    problem(&proxy, "/v1/balance", later, 422).await;
    let idle = json!({"destinations": [{"address": "127.0.0.1:1", "weight": 0}]});
    problem(&proxy, "/v1/balance", idle, 503).await;
}

#[tokio::test]
async fn destinations_of_the_call_are_checked_immediately() {
    let proxy = TestProxy::start().await;
    let (_held, closed) = closed();
    let call = json!({
        "destinations": [{"id": "up", "address": proxy.address.to_string()}, {"id": "gone", "address": closed}],
        "config": {"checkInterval": 100, "timeout": 1000, "failureThreshold": 2, "recoveryThreshold": 1},
    });
    let body = ok(&proxy, "/v1/health/monitor", call).await;
    assert_eq!(
        (&body["healthStatus"]["state"], &body["healthStatus"]["total"]),
        (&"degraded".into(), &2.into())
    );
    let (up, gone) = (&body["destinations"][0], &body["destinations"][1]);
    assert_eq!(
        (&up["status"], &up["score"], &up["lastCheck"]["ok"]),
        (&"serving".into(), &1.0.into(), &true.into())
    );
    assert_eq!((&gone["status"], &gone["consecutiveFailures"]), (&"down".into(), &1.into()));
    assert_eq!(body["alerts"][0]["kind"], "destination_down");
}

#[tokio::test]
async fn alerts_are_reported_acknowledged_counted_and_cleared() {
    let proxy = TestProxy::start().await;
    let before = proxy.config();
    let (_held, closed) = closed();
    proxy.set_config(
        &before.replace("destinations: [", &format!("destinations: [{{id: c, address: \"{closed}\"}}, ")),
    );
    assert_eq!(proxy.request("POST", "/v1/config:reload", "", "").await.status, 200);
    let body = proxy
        .poll_until("/v1/alerts", |body| body["alerts"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    let down = &body["alerts"][0];
    assert_eq!(
        (&down["pool"], &down["kind"], &down["subject"]),
        (&"default".into(), &"destination_down".into(), &"c".into())
    );
    assert_eq!((&down["severity"], &down["threshold"]), (&"warning".into(), &3.0.into()));
    assert!(down["message"].as_str().unwrap().contains("cannot connect"), "{down}");
    assert!(down["raisedAt"].as_u64().unwrap() > 1_600_000_000_000 && down["clearedAt"].is_null());
    let health = ok(&proxy, "/v1/health/monitor", json!({"pool": "default"})).await;
    assert_eq!(
        (&health["healthStatus"]["state"], &health["alerts"][0]["id"]),
        (&"degraded".into(), &down["id"])
    );

    let ack = format!("/v1/alerts/{}/ack", down["id"].as_str().unwrap());
    assert_eq!(ok(&proxy, &ack, json!({"by": "anna"})).await["acknowledgedBy"], "anna");
    assert_eq!(proxy.get("/v1/alerts").await.json()["alerts"][0]["acknowledgedBy"], "anna");
    problem(&proxy, "/v1/alerts/default.1/ack", json!({}), 404).await;
    problem(&proxy, "/v1/alerts/unknown/ack", json!({}), 404).await;
    problem(&proxy, &ack, json!({"by": "a\nb"}), 400).await;
    let metrics = proxy.get("/metrics?metrics=plimsoll_alerts,plimsoll_pool_panic").await.body;
    for line in [
        r#"plimsoll_alerts_total{pool="default",kind="destination_down",severity="warning"} 1"#,
        r#"plimsoll_alerts_active{pool="default",kind="pool_degraded",severity="warning"} 1"#,
        r#"plimsoll_pool_panic{pool="default"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    proxy.set_config(&before);
    proxy.request("POST", "/v1/config:reload", "", "").await;
    let over =
        |body: &Value| body["alerts"].as_array().unwrap().iter().all(|alert| alert["clearedAt"].is_u64());
    let body = proxy.poll_until("/v1/alerts", over).await;
    assert_eq!(body["alerts"].as_array().unwrap().len(), 2, "cleared alerts are still listed");

    proxy.set_config(
        &before
            .replace("alerting: true", "alerting: false")
            .replace("destinations: [", &format!("destinations: [{{id: c, address: \"{closed}\"}}, ")),
    );
    proxy.request("POST", "/v1/config:reload", "", "").await;
    proxy.poll_until("/v1/pools/default", |pool| pool["healthStatus"]["state"] == "degraded").await;
    assert!(over(&proxy.get("/v1/alerts").await.json()), "no alert is raised while alerting is off");
}

#[tokio::test]
async fn recommendations_have_their_pool_and_evidence() {
    let proxy = TestProxy::start().await;
    assert_eq!(proxy.get("/v1/recommendations").await.json(), json!({"recommendations": []}));
    let text = proxy.config();
    let only = format!("{}, {{id: 'b", &text[..text.find(", {id: 'b").unwrap()]).replace(", {id: 'b", "]\n");
    proxy.set_config(&only);
    assert_eq!(proxy.request("POST", "/v1/config:reload", "", "").await.status, 200, "{only}");
    let body = proxy.get("/v1/recommendations").await.json();
    let found = &body["recommendations"][0];
    assert_eq!((&found["pool"], &found["id"]), (&"default".into(), &"no_redundancy:a".into()));
    assert!(found["evidence"][0].as_str().unwrap().contains("only destination"), "{found}");
    assert!(found["expectedEffect"].is_string() && found["confidence"] == 1.0);
}

/// Selects destinations `count` times, and returns their ids.
async fn selected(proxy: &TestProxy, call: &Value, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let body = ok(proxy, "/v1/balance", call.clone()).await;
        ids.push(body["selectedDestination"]["id"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test]
async fn destinations_that_checks_find_down_are_not_selected_and_backups_take_over() {
    let proxy = TestProxy::start().await;
    let (_held, gone) = closed();
    let call = json!({"destinations": [
        {"id": "flow-first", "address": gone},
        {"id": "flow-backup", "address": proxy.address.to_string(), "priority": 1},
    ]});
    assert_eq!(selected(&proxy, &call, 2).await, ["flow-first"; 2], "not monitored yet");
    let monitored = ok(&proxy, "/v1/health/monitor", call.clone()).await;
    assert_eq!(monitored["healthStatus"]["state"], "degraded");
    assert_eq!(selected(&proxy, &call, 4).await, ["flow-backup"; 4]);
    let body = ok(&proxy, "/v1/balance", call.clone()).await;
    assert_eq!(
        (&body["healthStatus"]["state"], &body["healthStatus"]["serving"]),
        (&"degraded".into(), &1.into())
    );
    let mut unchecked = call;
    unchecked["config"] = json!({"healthChecking": false});
    assert_eq!(selected(&proxy, &unchecked, 2).await, ["flow-first"; 2]);
}

#[tokio::test]
async fn reported_outcomes_set_a_failing_destination_aside() {
    let proxy = TestProxy::start().await;
    let call = json!({"destinations": [
        {"id": "outcome-a", "address": "10.9.7.1:80"}, {"id": "outcome-b", "address": "10.9.7.2:80"},
    ]});
    assert_eq!(selected(&proxy, &call, 2).await, ["outcome-a", "outcome-b"]);
    let report = async |body: Value| post(&proxy, "/v1/balance:outcomes", &body).await.status;
    let failed = json!({"destination": "outcome-a", "ok": false});
    let passed = json!({"destination": "10.9.7.2:80", "ok": true, "responseTimeMs": 12.5});
    assert_eq!(report(json!([passed, failed, failed, failed, failed, failed])).await, 204);
    assert_eq!(selected(&proxy, &call, 4).await, ["outcome-b"; 4]);
    let body = ok(&proxy, "/v1/balance", call.clone()).await;
    let performance = &body["performance"]["destinations"];
    assert_eq!((&performance[0]["samples"], &performance[0]["errorRate"]), (&5.into(), &1.0.into()));
    assert_eq!(performance[1]["responseTimeMs"]["p50"], 12.5);
    assert_eq!(report(json!([{"destination": "outcome-a", "ok": true}])).await, 204);
    assert!(selected(&proxy, &call, 4).await.contains(&"outcome-a".to_owned()), "a success ends it");

    for (body, status) in [
        (json!([{"destination": "nowhere", "ok": true}]), 404),
        (json!([{"destination": "outcome-a", "ok": true, "responseTimeMs": -1}]), 422),
        (json!([{"destination": "outcome-a"}]), 400),
        (json!([{"destination": "outcome-a", "ok": true, "status": 200}]), 400),
        (json!({}), 400),
    ] {
        problem(&proxy, "/v1/balance:outcomes", body, status).await;
    }
}

#[tokio::test]
async fn unknown_keys_and_algorithms_without_their_settings_are_problems() {
    let proxy = TestProxy::start().await;
    let misspelt = json!({"destinations": [{"address": "127.0.0.1:1", "wieght": 2}]});
    assert!(problem(&proxy, "/v1/balance", misspelt, 400).await.contains("wieght"));
    let custom = json!({"destinations": [{"address": "127.0.0.1:1"}], "config": {"algorithm": "custom"}});
    assert!(problem(&proxy, "/v1/balance", custom, 422).await.contains("expression"));
    for body in [json!({"by": 7}), json!({"name": "me"}), json!([])] {
        problem(&proxy, "/v1/alerts/default.1/ack", body, 400).await;
    }
}
