//! `monitor_health` against real sockets: the first result and later changes.

use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_functions::{
    Destination, HealthMonitoringConfig, HealthMonitoringResult, HealthState, monitor_health,
};
use tokio::net::{TcpListener, TcpSocket};

fn config() -> HealthMonitoringConfig {
    let mut config = HealthMonitoringConfig::default();
    config.check_interval = Duration::from_millis(100);
    config.timeout = Duration::from_secs(1);
    config.failure_threshold = 2;
    config.recovery_threshold = 2;
    config
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Calls `monitor_health` until the result meets the condition.
async fn poll_until(
    destinations: &[Destination],
    holds: impl Fn(&HealthMonitoringResult) -> bool,
) -> HealthMonitoringResult {
    for _ in 0..500 {
        let result = monitor_health(destinations, &config()).await.expect("valid");
        if holds(&result) {
            return result;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("condition not met in time");
}

#[tokio::test]
async fn first_call_checks_and_later_calls_report_changes() {
    let (_a, a) = listener().await;
    // Bound but not listening: connections are refused and the port stays reserved.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.set_reuseaddr(true).expect("an option");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let b = closed.local_addr().expect("bound");
    let destinations = [Destination::new("b", b.to_string()), Destination::new("a", a.to_string())];
    let first = monitor_health(&destinations, &config()).await.expect("valid");
    assert_eq!((first.health_status.state, first.health_status.serving), (HealthState::Degraded, 1));
    let ids: Vec<_> = first.destinations.iter().map(|d| (&*d.id, d.status, d.score)).collect();
    assert_eq!(
        ids,
        [("b", "down", Some(0.0)), ("a", "serving", Some(1.0))],
        "one failure of the first check is enough"
    );
    assert!(first.destinations[0].reason.as_deref().is_some_and(|reason| reason.contains("cannot connect")));
    assert!(
        first.destinations[1]
            .last_check
            .as_ref()
            .is_some_and(|check| check.ok && check.latency_ms > Some(0.0))
    );
    let kinds: Vec<_> = first.alerts.iter().map(|alert| (alert.kind, &*alert.subject)).collect();
    assert_eq!(kinds, [("destination_down", "b"), ("pool_degraded", "monitored")]);

    let opened = closed.listen(16).expect("listens now");
    let turned = [destinations[1].clone(), destinations[0].clone()];
    let back = poll_until(&turned, |result| result.health_status.state == HealthState::Healthy).await;
    assert_eq!(back.destinations[0].id, "a", "in the order of the call");
    assert!(back.destinations[1].consecutive_successes >= 2, "the recovery threshold");
    assert!(back.destinations[1].score > Some(0.0) && back.destinations[1].score < Some(1.0));
    assert!(back.alerts.iter().all(|alert| alert.cleared_at > Some(alert.raised_at)), "{:?}", back.alerts);
    assert_eq!(back.alerts.len(), 2, "each was raised once, however often it failed");
    assert_eq!(back.errors, []);
    drop(opened);
    let down = poll_until(&destinations, |result| !result.errors.is_empty()).await;
    assert_eq!(down.destinations[0].status, "down");
}

#[tokio::test]
async fn pool_of_one_failed_destination_is_down_and_lacks_redundancy() {
    let (gone, address) = listener().await;
    drop(gone);
    let result =
        monitor_health(&[Destination::new("a", address.to_string())], &config()).await.expect("valid");
    assert_eq!(result.health_status.state, HealthState::Down);
    assert_eq!(result.alerts[0].kind, "pool_down");
    let kinds: Vec<_> = result.recommendations.iter().map(|found| &*found.kind).collect();
    assert_eq!(kinds, ["no_redundancy"]);
    let json = serde_json::to_value(&result).expect("serializable");
    for field in ["healthStatus", "destinations", "alerts", "recommendations"] {
        assert!(!json[field].is_null(), "{field}");
    }
}

#[tokio::test]
async fn path_makes_an_http_check() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            let _gone = tokio::io::AsyncWriteExt::write_all(&mut stream, response).await;
            let mut rest = [0; 1024];
            while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await.is_ok_and(|read| read > 0) {}
        }
    });
    let mut config = config();
    config.path = Some("/up".into());
    let result = monitor_health(&[Destination::new("a", address.to_string())], &config).await.expect("valid");
    let check = result.destinations[0].last_check.as_ref().expect("checked");
    assert_eq!((&*check.detail, check.layer, check.kind), ("responded 404", Some(7), Some("bad_status")));
    let wrong = result.recommendations.iter().find(|found| found.kind == "check_wrong").expect("reported");
    assert_eq!(wrong.command, Some(format!("curl -i http://{address}/up")));
}
