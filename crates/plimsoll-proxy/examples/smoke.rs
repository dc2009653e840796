//! A proxy from the command line: `smoke http|tcp LISTEN WORKERS DEST...`
use plimsoll_config::model::*;
use plimsoll_core::{Weight, balance::Algorithm, health::*, retry::*};
use std::sync::Arc;
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let s = Duration::from_secs;
    let pool = Pool {
        name: "default".into(),
        algorithm: Algorithm::RoundRobin,
        health: Some(HealthSpec {
            check_interval: s(1),
            timeout: s(1),
            failure_threshold: 3,
            recovery_threshold: 2,
            probe: ProbeKind::Tcp,
            port: None,
        }),
        parallel_checks: true,
        outlier: OutlierSpec {
            consecutive_failures: 5,
            base_ejection: s(30),
            max_ejection: s(300),
            max_ejected: 0.5,
        },
        retry: RetrySpec {
            attempts: 3,
            when: RetryWhen {
                connect_failure: true,
                reset: true,
                empty_response: true,
                timeout: false,
                statuses: vec![],
            },
            budget: 0.2,
            failover: true,
            error_recovery: true,
        },
        backup_tiers: true,
        timeouts: DestinationTimeouts { connect: s(1), response: s(60), idle: s(60), total: None },
        destinations: args[3..]
            .iter()
            .map(|a| Destination {
                name: a.as_str().into(),
                address: DestinationAddress::Socket(a.parse().unwrap()),
                weight: Weight::ONE,
                priority: 0,
                zone: None,
                labels: vec![],
            })
            .collect(),
    };
    let listener = Listener {
        name: "web".into(),
        addresses: vec![ListenAddress::Socket(args[1].parse().unwrap())],
        protocol: if args[0] == "http" { Protocol::Http } else { Protocol::Tcp },
        trusted_proxies: vec![],
        timeouts: ClientTimeouts { header: s(10), body: s(30), idle: s(60) },
        limits: Limits {
            connections: 20000,
            header_bytes: 65536,
            headers: 100,
            uri_bytes: 8192,
            body_bytes: 0,
        },
        via: false,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        routes: vec![],
        pool: Some(0),
    };
    let config = Config {
        workers: std::num::NonZeroUsize::new(args[2].parse().unwrap()),
        shutdown_grace: s(5),
        listeners: vec![Arc::new(listener)],
        pools: vec![Arc::new(pool)],
        admin: None,
        access_log: None,
    };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let mut proxy = plimsoll_proxy::Proxy::start(config, Box::new(|| Err("no".into()))).await.unwrap();
        tokio::signal::ctrl_c().await.unwrap();
        proxy.handle().drain();
        proxy.ended().await;
    });
}
