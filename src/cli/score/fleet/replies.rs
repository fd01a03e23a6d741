//! Owns what becomes of a run's replies: jobs get their answers, and a reply is acknowledged when nothing needs it any more.
//!
//! Promises that the reply to a job whose rows aren't durable stays at the broker, and is there for the process that goes on.

use super::{
    Place, State,
    answer::{Reply, is_cancelled},
    link::{Held, Link, Open, Posting},
};
use crate::cli::score::item::Position;
use lapin::{Acker, message::Delivery, options::BasicAckOptions};
use tokio::sync::watch;

/// Bytes of replies that came before their jobs were asked for: what an earlier process has left.
const MAX_EARLY_BYTES: usize = 64 << 20;

impl Link {
    /// Takes a reply.
    pub(super) async fn reply(
        &mut self,
        delivery: Delivery,
        state: &watch::Sender<State>,
    ) -> anyhow::Result<()> {
        self.quiet.replied();
        let key = delivery.properties.correlation_id().as_ref();
        let key = key.map(|key| key.as_str().to_owned()).unwrap_or_default();
        let spot = self.spot(key);
        if self.open.contains_key(&spot) && is_cancelled(&delivery.data) {
            self.open.remove(&spot);
            state.send_replace(State::Cancelled);
            return self.ack(&delivery.acker).await;
        }
        if let Some(open) = self.open.remove(&spot) {
            return self.answer(spot.1, open, delivery).await;
        }
        if let Some(held) = self.held.get_mut(&spot.1)
            && held.acker.is_none()
        {
            held.acker = Some(delivery.acker);
            return Ok(());
        }
        let (spot, key) = spot;
        let is_wanted = spot.is_some_and(|spot| !spot.is_before(self.kept));
        let bytes = self.early_bytes + delivery.data.len();
        if !is_wanted || self.held.contains_key(&key) || self.early.contains_key(&key) {
            return self.ack(&delivery.acker).await;
        }
        // What doesn't fit stays at the broker until this session ends; its job is posted again, and answered from its row.
        if bytes <= MAX_EARLY_BYTES {
            self.early_bytes = bytes;
            self.early.insert(key, delivery);
        }
        Ok(())
    }

    /// Gives a job its answer.
    pub(super) async fn answer(
        &mut self,
        key: String,
        open: Open,
        delivery: Delivery,
    ) -> anyhow::Result<()> {
        // Its confirm comes when nobody waits for it any more: who goes on must know of it all the same.
        let is_unlisted = open.posting == Posting::Sent && open.window.is_some();
        if is_unlisted {
            self.list(&key);
        }
        // Who has asked may be gone.
        let _unheard = open.answer.send(Reply::Message(delivery.data));
        match open.window {
            Some(window) => {
                let held = Held {
                    acker: Some(delivery.acker),
                    _window: window,
                };
                self.held.insert(key, held);
                Ok(())
            }
            None => self.ack(&delivery.acker).await,
        }
    }

    /// Lists a job as posted.
    pub(super) fn list(&mut self, key: &str) {
        let listed = self.journal.as_mut().map(|journal| journal.add(key));
        if let Some(Err(_)) = listed {
            self.unlisted();
        }
    }

    /// The list only saves jobs from being posted twice: a run goes on without it.
    fn unlisted(&mut self) {
        self.journal = None;
        self.say("the list of posted jobs can't be written: a restart will post some again, which are answered from their rows");
    }

    /// Gives a job its answer from its row.
    pub(super) fn answer_from_row(&mut self, spot: &(Option<Place>, String), reply: Reply) {
        let Some(open) = self.open.remove(spot) else {
            return;
        };
        let _unheard = open.answer.send(reply);
        if let Some(window) = open.window {
            let held = Held {
                acker: None,
                _window: window,
            };
            self.held.insert(spot.1.clone(), held);
        }
    }

    async fn ack(&self, acker: &Acker) -> anyhow::Result<()> {
        let ack = acker.ack(BasicAckOptions::default());
        self.broker.within(ack).await?;
        Ok(())
    }

    /// Lets go of the replies whose rows are durable.
    pub(super) async fn let_go(&mut self, end: Position) -> anyhow::Result<()> {
        self.kept = end;
        let run = &self.run;
        let is_kept = |key: &str| Place::of_key(key, run).is_none_or(|spot| spot.is_before(end));
        let kept: Vec<String> = self
            .held
            .keys()
            .chain(self.early.keys())
            .filter(|key| is_kept(key))
            .cloned()
            .collect();
        for key in kept {
            let held = self.held.remove(&key).and_then(|held| held.acker);
            let early = self.early.remove(&key);
            if let Some(early) = &early {
                self.early_bytes = self.early_bytes.saturating_sub(early.data.len());
            }
            for acker in held.into_iter().chain(early.map(|early| early.acker)) {
                self.ack(&acker).await?;
            }
        }
        let keys = self.open.keys().map(|(_, key)| key).chain(self.held.keys());
        let cut = self.journal.as_mut().map(|journal| journal.cut(keys));
        if let Some(Err(_)) = cut {
            self.unlisted();
        }
        Ok(())
    }
}
