//! A program that balances its own messages: three echo servers on this machine, one of them dead.
//!
//! `cargo run -p plimsoll --example embed`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use plimsoll::{Algorithm, Destination, Failure, LoadBalancer, LoadBalancingConfig, Outcome};

/// An echo server on a free port, for as long as the program runs.
fn echo_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut message = [0; 64];
            let sent = connection.read(&mut message).and_then(|n| connection.write_all(&message[..n]));
            if let Err(error) = sent {
                eprintln!("echo server: {error}");
            }
        }
    });
    Ok(address)
}

/// An address where nobody listens.
fn dead_server() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn send(address: &str, message: &str) -> Result<String, Failure> {
    let mut connection = TcpStream::connect(address).map_err(|_| Failure::Connect)?;
    connection.write_all(message.as_bytes()).map_err(|_| Failure::Reset)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).map_err(|_| Failure::Reset)?;
    if answer.is_empty() { Err(Failure::EmptyResponse) } else { Ok(answer) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let destinations = [
        Destination::new("strong", echo_server()?).weighing(3),
        Destination::new("weak", echo_server()?),
        Destination::new("dead", dead_server()?),
    ];
    let config = LoadBalancingConfig::with(Algorithm::WeightedRoundRobin);
    let balancer = LoadBalancer::new(&destinations, &config)?;

    for n in 1..=30 {
        // An echo may be repeated, so whoever fails is followed by another, until nobody is left.
        let mut assignment = balancer.assign()?;
        loop {
            match send(&assignment.destination().address, &format!("message {n}")) {
                Ok(_) => break assignment.answered(200),
                Err(failure) => assignment = assignment.failover(Outcome::Failed(failure))?,
            }
        }
    }

    // The 31st, with all there is to tell.
    let result = balancer.balance_load()?;
    println!("next: {}", result.selected_destination.id);
    println!(
        "health: {:?}, {} of {}",
        result.health_status.state,
        result.health_status.serving,
        destinations.len()
    );
    for one in &result.load_distribution.destinations {
        println!(
            "{}: share {:.2}, intended {:.2}",
            one.id,
            one.share.unwrap_or_default(),
            one.intended_share
        );
    }
    for one in &result.performance.destinations {
        println!("{}: {} reported, error rate {:?}", one.id, one.samples, one.error_rate);
    }
    for one in &result.recommendations {
        println!("{} ({})", one.message, one.evidence.join("; "));
    }
    result.assignment.answered(200);
    Ok(())
}
