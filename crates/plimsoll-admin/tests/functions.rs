//! The seed's functions over HTTP: the same fields, on pools and on destinations that come with the call.

#![allow(clippy::unwrap_used)] // A test's helpers may do what a test may.

mod world;

use serde_json::{Value, json};
use world::{Reply, World};

async fn post(world: &World, path: &str, body: &Value) -> Reply {
    let body = body.to_string();
    let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    world.ask("POST", path, &head, &body).await
}

async fn ok(world: &World, path: &str, body: Value) -> Value {
    let reply = post(world, path, &body).await;
    assert_eq!(reply.status, 200, "{path} {body}: {reply:?}");
    reply.json()
}

async fn problem(world: &World, path: &str, body: Value, status: u16) -> String {
    let reply = post(world, path, &body).await;
    assert_eq!(reply.status, status, "{path} {body}: {reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    reply.json()["detail"].as_str().unwrap().to_owned()
}

/// An address where nobody listens: bound, and not listening.
fn closed() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn balance_on_a_pool_takes_turns_and_tells_how_the_pool_stands() {
    let world = World::start().await;
    let mut chosen = Vec::new();
    for _ in 0..4 {
        let told = ok(&world, "/v1/balance", json!({"pool": "default"})).await;
        chosen.push(told["selectedDestination"]["id"].as_str().unwrap().to_owned());
        for field in ["loadDistribution", "healthStatus", "performance", "recommendations"] {
            assert!(!told[field].is_null(), "{field}");
        }
        assert_eq!(told["healthStatus"]["state"], "healthy");
    }
    assert_eq!(chosen.iter().filter(|id| *id == "a").count(), 2, "{chosen:?}");
    let told = ok(&world, "/v1/balance", json!({"pool": "default", "key": "session-7"})).await;
    assert!(told["selectedDestination"]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(told["performance"]["samples"], 0, "nobody told how those messages ended");
    assert_eq!(told["performance"]["responseTimeMs"], Value::Null);
    assert_eq!(told["loadDistribution"]["destinations"][0]["inFlight"], 0, "the API holds no place");
    world.through("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    let told = ok(&world, "/v1/balance", json!({"pool": "default"})).await;
    assert_eq!(
        (&told["performance"]["samples"], &told["performance"]["errorRate"]),
        (&1.into(), &0.0.into())
    );
    assert!(told["performance"]["responseTimeMs"]["p99"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn balance_on_destinations_of_the_call_remembers_them() {
    let world = World::start().await;
    let call = json!({
        "destinations": [{"id": "big", "address": "10.9.8.1:80", "weight": 2}, {"id": "small", "address": "10.9.8.2:80"}],
        "config": {"algorithm": "weighted_round_robin"},
    });
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let told = ok(&world, "/v1/balance", call.clone()).await;
        chosen.push(told["selectedDestination"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(chosen, ["big", "small", "big", "big", "small", "big"]);
}

#[tokio::test]
async fn calls_that_make_no_sense_are_problems() {
    let world = World::start().await;
    let a = json!([{"address": "127.0.0.1:1"}]);
    for path in ["/v1/balance", "/v1/health/monitor"] {
        assert!(problem(&world, path, json!({"pool": "defautl"}), 404).await.contains("default"));
        problem(&world, path, json!({}), 400).await;
        problem(&world, path, json!({"pool": "default", "destinations": a}), 400).await;
        problem(&world, path, json!({"pool": "default", "config": {}}), 400).await;
        problem(&world, path, json!({"destinations": a, "confg": {}}), 400).await;
        problem(&world, path, json!({"destinations": []}), 422).await;
        problem(&world, path, json!({"destinations": [{"address": "example.com:80"}]}), 422).await;
        problem(&world, path, json!({"destinations": a, "config": {"unknown": 1}}), 400).await;
        problem(&world, path, json!({"destinations": a, "key": "x"}), 400).await;
    }
    let hasty = json!({"destinations": a, "config": {"checkInterval": 1}});
    assert!(problem(&world, "/v1/health/monitor", hasty, 422).await.contains("check_interval"));
    let later = json!({"destinations": a, "config": {"dynamicAdjustment": true}});
    problem(&world, "/v1/balance", later, 422).await;
    let idle = json!({"destinations": [{"address": "127.0.0.1:1", "weight": 0}]});
    problem(&world, "/v1/balance", idle, 503).await;
}

#[tokio::test]
async fn health_of_destinations_of_the_call_is_checked_there_and_then() {
    let world = World::start().await;
    let (_held, closed) = closed();
    let call = json!({
        "destinations": [{"id": "up", "address": world.listens.to_string()}, {"id": "gone", "address": closed}],
        "config": {"checkInterval": 100, "timeout": 1000, "failureThreshold": 2, "recoveryThreshold": 1},
    });
    let told = ok(&world, "/v1/health/monitor", call).await;
    assert_eq!(
        (&told["healthStatus"]["state"], &told["healthStatus"]["total"]),
        (&"degraded".into(), &2.into())
    );
    let (up, gone) = (&told["destinations"][0], &told["destinations"][1]);
    assert_eq!(
        (&up["status"], &up["score"], &up["lastCheck"]["ok"]),
        (&"serving".into(), &1.0.into(), &true.into())
    );
    assert_eq!((&gone["status"], &gone["consecutiveFailures"]), (&"down".into(), &1.into()));
    assert_eq!(told["alerts"][0]["kind"], "destination_down");
}

#[tokio::test]
async fn an_alert_is_told_acknowledged_counted_and_cleared() {
    let world = World::start().await;
    let before = world.config();
    let (_held, closed) = closed();
    world.offer(
        &before.replace("destinations: [", &format!("destinations: [{{id: c, address: \"{closed}\"}}, ")),
    );
    assert_eq!(world.ask("POST", "/v1/config:reload", "", "").await.status, 200);
    let told =
        world.until("/v1/alerts", |told| told["alerts"].as_array().is_some_and(|all| all.len() == 2)).await;
    let down = &told["alerts"][0];
    assert_eq!(
        (&down["pool"], &down["kind"], &down["subject"]),
        (&"default".into(), &"destination_down".into(), &"c".into())
    );
    assert_eq!((&down["severity"], &down["threshold"]), (&"warning".into(), &3.0.into()));
    assert!(down["message"].as_str().unwrap().contains("cannot connect"), "{down}");
    assert!(down["raisedAt"].as_u64().unwrap() > 1_600_000_000_000 && down["clearedAt"].is_null());
    let health = ok(&world, "/v1/health/monitor", json!({"pool": "default"})).await;
    assert_eq!(
        (&health["healthStatus"]["state"], &health["alerts"][0]["id"]),
        (&"degraded".into(), &down["id"])
    );

    let ack = format!("/v1/alerts/{}/ack", down["id"].as_str().unwrap());
    assert_eq!(ok(&world, &ack, json!({"by": "anna"})).await["acknowledgedBy"], "anna");
    assert_eq!(world.get("/v1/alerts").await.json()["alerts"][0]["acknowledgedBy"], "anna");
    problem(&world, "/v1/alerts/default.1/ack", json!({}), 404).await;
    problem(&world, "/v1/alerts/nobody/ack", json!({}), 404).await;
    problem(&world, &ack, json!({"by": "a\nb"}), 400).await;
    let metrics = world.get("/metrics?metrics=plimsoll_alerts,plimsoll_pool_panic").await.body;
    for line in [
        r#"plimsoll_alerts_total{pool="default",kind="destination_down",severity="warning"} 1"#,
        r#"plimsoll_alerts_active{pool="default",kind="pool_degraded",severity="warning"} 1"#,
        r#"plimsoll_pool_panic{pool="default"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    world.offer(&before);
    world.ask("POST", "/v1/config:reload", "", "").await;
    let over =
        |told: &Value| told["alerts"].as_array().unwrap().iter().all(|alert| alert["clearedAt"].is_u64());
    let told = world.until("/v1/alerts", over).await;
    assert_eq!(told["alerts"].as_array().unwrap().len(), 2, "what is over is still told");

    world.offer(
        &before
            .replace("alerting: true", "alerting: false")
            .replace("destinations: [", &format!("destinations: [{{id: c, address: \"{closed}\"}}, ")),
    );
    world.ask("POST", "/v1/config:reload", "", "").await;
    world.until("/v1/pools/default", |pool| pool["healthStatus"]["state"] == "degraded").await;
    assert!(over(&world.get("/v1/alerts").await.json()), "off: nothing is raised");
}

#[tokio::test]
async fn recommendations_name_their_pool_and_what_was_seen() {
    let world = World::start().await;
    assert_eq!(world.get("/v1/recommendations").await.json(), json!({"recommendations": []}));
    let text = world.config();
    let only = format!("{}, {{id: 'b", &text[..text.find(", {id: 'b").unwrap()]).replace(", {id: 'b", "]\n");
    world.offer(&only);
    assert_eq!(world.ask("POST", "/v1/config:reload", "", "").await.status, 200, "{only}");
    let told = world.get("/v1/recommendations").await.json();
    let found = &told["recommendations"][0];
    assert_eq!((&found["pool"], &found["id"]), (&"default".into(), &"no_redundancy:a".into()));
    assert!(found["evidence"][0].as_str().unwrap().contains("only destination"), "{found}");
    assert!(found["expectedEffect"].is_string() && found["confidence"] == 1.0);
}
