//! A switch that many watch, such as the pause of taking jobs.

use tokio::sync::watch;

/// What is switched; watched by those who follow it.
#[derive(Debug, Clone)]
pub(super) struct Switch(watch::Receiver<bool>);

impl Switch {
    /// A switch that is off, and what turns it.
    pub(super) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits until it is on.
    pub(super) async fn wait_on(&mut self) {
        self.wait(true).await;
    }

    /// Waits until it is off.
    pub(super) async fn wait_off(&mut self) {
        self.wait(false).await;
    }

    /// Whether it is on.
    pub(super) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    async fn wait(&mut self, wanted: bool) {
        if self.0.wait_for(|on| *on == wanted).await.is_err() {
            // Nobody can turn it any more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_follows_it() {
        let (turn, switch) = Switch::new();
        let (mut a, mut b) = (switch.clone(), switch.clone());
        assert!(!switch.is_on());
        turn.send_replace(true);
        tokio::join!(a.wait_on(), b.wait_on());
        assert!(switch.is_on());
        turn.send_replace(false);
        a.wait_off().await;
    }
}
