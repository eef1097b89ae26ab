//! A sensor on the bus: `bus_sensor` publishes the machine's load every second, and answers calls for it (`now`);
//! `bus_sensor DEVICE` prints what the sensor of a device publishes (`loopback` is this machine).

use std::error::Error;
use std::fs;
use std::thread;
use std::time::Duration;

use netd_ipc::services::{BusCallError, BusOffers, BusService, Client};

const READINGS: &str = "load";
const METHODS: &str = "load-now";
const TOPIC: &str = "average";

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::default_paths();
    if let Some(device) = std::env::args().nth(1) {
        return print(&client, &device);
    }
    // A connection does one thing at a time: one that publishes, and one that waits for calls.
    let mut readings = client.offer_bus(READINGS, BusOffers { topics: true, ..BusOffers::default() })?;
    let mut methods = client.offer_bus(METHODS, BusOffers { calls: true, ..BusOffers::default() })?;
    thread::spawn(move || {
        loop {
            if let Err(error) = answer(&mut methods) {
                return eprintln!("no more calls are answered: {error}");
            }
        }
    });
    loop {
        readings.publish(TOPIC, load()?.as_bytes())?;
        thread::sleep(Duration::from_secs(1));
    }
}

/// The average of the last minute.
fn load() -> std::io::Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn answer(methods: &mut BusService) -> Result<(), Box<dyn Error>> {
    let call = methods.next_call()?;
    let answered = match (call.method.as_str(), load()) {
        ("now", Ok(load)) => methods.answer(call.id, Ok(load.as_bytes())),
        ("now", Err(error)) => methods.answer(call.id, Err((BusCallError::Failed, &error.to_string()))),
        (method, _) => {
            let message = format!("there is no method '{method}': 'now' is there");
            methods.answer(call.id, Err((BusCallError::NotFound, &message)))
        }
    };
    match answered {
        // Whoever called waits no longer.
        Err(error) if error.kind() == Some(netd_ipc::services::ErrorKind::NotFound) => Ok(()),
        other => Ok(other?),
    }
}

fn print(client: &Client, device: &str) -> Result<(), Box<dyn Error>> {
    let mut subscription = client.subscribe_bus(device, READINGS, Some(TOPIC))?;
    loop {
        let reading = subscription.next_publication()?;
        if reading.lost > 0 {
            println!("({} lost)", reading.lost);
        }
        println!("{}", String::from_utf8_lossy(&reading.payload));
    }
}
