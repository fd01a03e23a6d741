//! A switch that many watch, such as the pause of taking jobs.

use tokio::sync::watch;

/// What is switched; watched by those who follow it. How it stands isn't known until it is told for the first time.
#[derive(Debug, Clone)]
pub(super) struct Switch(watch::Receiver<Option<bool>>);

impl Switch {
    /// A switch of which nothing is known, and what turns it.
    pub(super) fn new() -> (watch::Sender<Option<bool>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// Waits until it is known how it stands.
    pub(super) async fn wait_known(&mut self) {
        self.wait(|on| on.is_some()).await;
    }

    /// Waits until it is on.
    pub(super) async fn wait_on(&mut self) {
        self.wait(|on| on == Some(true)).await;
    }

    /// Waits until it is off.
    pub(super) async fn wait_off(&mut self) {
        self.wait(|on| on == Some(false)).await;
    }

    /// Whether it is on.
    pub(super) fn is_on(&self) -> bool {
        *self.0.borrow() == Some(true)
    }

    async fn wait(&mut self, is_wanted: impl Fn(Option<bool>) -> bool) {
        if self.0.wait_for(|on| is_wanted(*on)).await.is_err() {
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
        turn.send_replace(Some(true));
        tokio::join!(a.wait_on(), b.wait_known());
        assert!(switch.is_on());
        turn.send_replace(Some(false));
        a.wait_off().await;
    }
}
