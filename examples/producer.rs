//! Posts a job and waits for its result: `cargo run --release --example producer`

#![allow(
    clippy::indexing_slicing,
    reason = "a field that a JSON value lacks is null"
)]

use std::{error::Error, time::Duration};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("KILN_AMQP_URL");
    let url = url.unwrap_or_else(|_| "amqp://kiln:kiln@127.0.0.1:5672/%2f".to_owned());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let replies = channel
        .queue_declare("".into(), exclusive, FieldTable::default())
        .await?;
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut consumer = channel
        .basic_consume(
            replies.name().clone(),
            "".into(),
            no_ack,
            FieldTable::default(),
        )
        .await?;

    // The same id and body again would give the first result again.
    let job_id = format!("rust-{:032x}", rand::random::<u128>());
    let job = json!({
        "job_id": job_id, "model": "sentiment", "namespace": "reviews", "named": true,
        "inputs": [{"key": "review:42", "text": "I love this!"}, {"key": "review:43", "text": "Terrible, it broke after a day."}],
    });
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_reply_to(replies.name().clone())
        .with_correlation_id(job_id.as_str().into());
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let body = serde_json::to_vec(&job)?;
    let confirm = channel
        .basic_publish("".into(), "kiln.jobs".into(), mandatory, &body, properties)
        .await?;
    // A message comes back with its confirmation where there is no such queue.
    if !matches!(confirm.await?, Confirmation::Ack(None)) {
        return Err("the broker didn't take the job: is a worker running?".into());
    }

    let reply = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await?;
    let reply = reply.ok_or("the broker cancelled the consumer")??;
    let reply: Value = serde_json::from_slice(&reply.data)?;
    if reply["status"] == "rejected" {
        return Err(format!("rejected: {}", reply["error"]).into());
    }
    for result in reply["results"].as_array().into_iter().flatten() {
        println!("{result}");
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
