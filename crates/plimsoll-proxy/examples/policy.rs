//! A policy of one's own: work goes to destinations near us, and elsewhere only when those have enough to do.
//!
//! A `Policy` is what the configuration names and outlives every change of the pool; a `Picker` is built from it
//! each time the list of those that may serve changes, and chooses for each message. What it may look at stands in
//! a `Slot`: weight, zone, labels, and the counters all workers share.

use std::sync::Arc;

use plimsoll_config::{Extensions, load_with};
use plimsoll_core::balance::{Algorithm, Needs, Picker, Policy, PolicyRegistry, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};
use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{ConfigSource, Proxy};

/// So much may a near one have in flight for each unit of its weight before others are asked.
const ENOUGH: u32 = 8;

/// `nearest`: whoever has the least to do among the near, while one of those has room; else among all.
struct Nearest {
    zone: &'static str,
    /// PolicyRegistry may be made of others: this one chooses among those it is given.
    fair: Box<dyn Policy>,
}

impl Nearest {
    fn new(zone: &'static str, workers: usize) -> Self {
        Self { zone, fair: Algorithm::WeightedLeastConnections.policy(workers) }
    }
}

impl Policy for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    // Off the request path: here is the time to sort, to count and to allocate.
    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let is_near = |slot: &&Slot| slot.zone.as_deref() == Some(self.zone);
        let near: Arc<[Slot]> = slots.iter().filter(is_near).cloned().collect();
        let places = (0..slots.len()).filter(|&place| is_near(&&slots[place])).collect();
        let nearest = (!near.is_empty()).then(|| self.fair.build(near));
        Box::new(NearestPicker { nearest, places, all: self.fair.build(slots.clone()), slots })
    }
}

struct NearestPicker {
    nearest: Option<Box<dyn Picker>>,
    /// Where the near ones stand among all.
    places: Box<[usize]>,
    all: Box<dyn Picker>,
    slots: Arc<[Slot]>,
}

impl Picker for NearestPicker {
    // On the request path: no lock, no allocation. The answer is an index among all slots.
    fn pick(&self, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        if let Some(nearest) = &self.nearest {
            let place = self.places[nearest.pick(want, now, rng)];
            let Slot { weight, stats, .. } = &self.slots[place];
            // Weights are in 256ths.
            if u64::from(stats.in_flight()) * 256 < u64::from(ENOUGH) * u64::from(*weight) {
                return place;
            }
        }
        self.all.pick(want, now, rng)
    }
}

/// A balancer that knows one policy more.
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
        println!("http://127.0.0.1:8080 leads to what is near; Ctrl-C ends it");
        Ok(tokio::signal::ctrl_c().await?)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A destination that answers every request with its name.
    fn destination(name: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    fn ask(port: u16) -> String {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }

    #[test]
    fn a_configuration_names_it_and_messages_stay_near() {
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
            let answers = move || (0..10).map(|_| ask(port)).collect::<Vec<_>>();
            let answers = tokio::task::spawn_blocking(answers).await.unwrap();
            assert!(answers.iter().all(|answer| answer == "near"), "{answers:?}");
        });
    }

    #[test]
    fn who_is_near_and_full_is_passed_over() {
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
        let mut take = || balance_load(&snapshot, &PickRequest::default(), Tick::ZERO, &mut rng).unwrap();
        let held: Vec<_> = (0..20).map(|_| take()).collect();
        let near = held.iter().filter(|assignment| assignment.member() == 1).count();
        assert_eq!((near, held.len()), (10, 20), "eight at once, and the rest shared");
    }
}
