//! A custom policy: requests go to destinations in the own zone, and elsewhere only when those are busy.
//!
//! A `Policy` is named in the configuration and outlives every change of the pool. A `Picker` is built from it
//! each time the list of serving destinations changes, and picks one for each message. It decides by the fields of
//! a `Slot`: weight, zone, labels, and counters shared by all workers.

use std::sync::Arc;

use plimsoll_config::{Extensions, load_with};
use plimsoll_core::balance::{Algorithm, Needs, Picker, Policy, PolicyRegistry, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};
use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{ConfigSource, Proxy};

/// Maximum requests in flight of a near destination, per unit of its weight, before others are used.
const MAX_NEAR: u32 = 8;

/// `nearest`: least loaded destination of the own zone while it is below the limit, else of all.
struct Nearest {
    zone: &'static str,
    /// Built-in policy that picks within the own zone and among all.
    base: Box<dyn Policy>,
}

impl Nearest {
    fn new(zone: &'static str, workers: usize) -> Self {
        Self { zone, base: Algorithm::WeightedLeastConnections.policy(workers) }
    }
}

impl Policy for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    // Not on the request path: sorting, counting and allocating belong here.
    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let is_near = |slot: &&Slot| slot.zone.as_deref() == Some(self.zone);
        let near: Arc<[Slot]> = slots.iter().filter(is_near).cloned().collect();
        let indexes = (0..slots.len()).filter(|&index| is_near(&&slots[index])).collect();
        let nearest = (!near.is_empty()).then(|| self.base.build(near));
        Box::new(NearestPicker { nearest, indexes, all: self.base.build(slots.clone()), slots })
    }
}

struct NearestPicker {
    nearest: Option<Box<dyn Picker>>,
    /// Indexes of the near slots among all.
    indexes: Box<[usize]>,
    all: Box<dyn Picker>,
    slots: Arc<[Slot]>,
}

impl Picker for NearestPicker {
    // On the request path: no lock, no allocation. Returns an index among all slots.
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        if let Some(nearest) = &self.nearest {
            let index = self.indexes[nearest.pick(request, now, rng)];
            let Slot { weight, stats, .. } = &self.slots[index];
            // Weights are in 256ths.
            if u64::from(stats.in_flight()) * 256 < u64::from(MAX_NEAR) * u64::from(*weight) {
                return index;
            }
        }
        self.all.pick(request, now, rng)
    }
}

/// Starts a proxy that supports the policy `nearest`.
async fn start(file: String) -> Result<Proxy, Box<dyn std::error::Error>> {
    let policies = PolicyRegistry::built_in().with(|workers| Box::new(Nearest::new("eu-1", workers)));
    let extensions = Extensions { policies, ..Extensions::default() };
    let read = move || {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = load_with(&file, "nearest.yaml", ".".as_ref(), &env, &extensions);
        let text = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
        loaded.config.ok_or_else(|| text.as_str().into())
    };
    let config = read().map_err(|invalid: plimsoll_proxy::InvalidConfig| invalid.text)?;
    let source: ConfigSource = Box::new(read);
    Ok(Proxy::start(config, source, Adapters::built_in()).await?)
}

const FILE: &str = r#"
listen: "127.0.0.1:8080"
destinations:
  - {address: "127.0.0.1:9001", zone: eu-1}
  - {address: "127.0.0.1:9002", zone: us-1}
load_balancer: {algorithm: nearest}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _proxy = start(FILE.to_owned()).await?;
        println!("listening on http://127.0.0.1:8080; stop with Ctrl-C");
        Ok(tokio::signal::ctrl_c().await?)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Starts a destination that responds to every request with its name.
    fn destination(name: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                        stream.write_all(response.as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    fn fetch(port: u16) -> String {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        response.rsplit("\r\n").next().unwrap().to_owned()
    }

    #[test]
    fn configured_policy_keeps_requests_in_the_own_zone() {
        let (near, far) = (destination("near"), destination("far"));
        let file = format!(
            "admin: false\nlisten: \"127.0.0.1:0\"\nload_balancer: {{algorithm: nearest}}\n\
             destinations: [{{address: \"{far}\", zone: us-1}}, {{address: \"{near}\", zone: eu-1}}]"
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let proxy = start(file).await.unwrap();
            let address = proxy.handle().traffic().listeners[0].addresses[0].clone();
            let port = address.rsplit(':').next().unwrap().parse().unwrap();
            let responses = move || (0..10).map(|_| fetch(port)).collect::<Vec<_>>();
            let responses = tokio::task::spawn_blocking(responses).await.unwrap();
            assert!(responses.iter().all(|response| response == "near"), "{responses:?}");
        });
    }

    #[test]
    fn busy_near_destination_is_skipped() {
        use plimsoll_core::snapshot::Member;
        use plimsoll_core::{
            Address, Destination, DestinationId, DestinationStats, Snapshot, Status, balance_load,
        };
        let member = |(id, zone): (u32, &str)| Member {
            id: DestinationId(id),
            destination: Destination {
                zone: Some(zone.into()),
                ..Destination::new(zone, Address::Socket(([127, 0, 0, 1], 1).into()))
            },
            status: Status::Serving,
            since: Tick::ZERO,
            weight: 256,
            slow_start: None,
            stats: Arc::new(DestinationStats::new(1)),
        };
        let members = [(0, "us-1"), (1, "eu-1")].map(member).into();
        let snapshot = Snapshot::build("p".into(), 1, &Nearest::new("eu-1", 1), members);
        let mut rng = Rng::new(1);
        let mut pick = || balance_load(&snapshot, &PickRequest::default(), Tick::ZERO, &mut rng).unwrap();
        let held: Vec<_> = (0..20).map(|_| pick()).collect();
        let near = held.iter().filter(|assignment| assignment.member() == 1).count();
        assert_eq!((near, held.len()), (10, 20), "eight in flight, the others shared");
    }
}
