//! The shipper as a service of its own, beside an agent that neither ships nor looks at the vault (`farshore run --no-shipper`):
//! so the one needs no network and no key, and the other no disks.
//!
//! The agent connects when its ring is ready to be read, and the connection is to the service what its standard input is to a child: as
//! long as it stands a shipper works on the ring; its end, also by the death of the agent, lets the shipper drain; and a word
//! on it has the shipper end at once, before the agent replaces the ring. So no shipper ever meets a ring that is being replaced.
//!
//! - [`words`]: what they say to each other
//! - [`serve`]: the service, `farshore ship`
//! - [`hold`]: the agent's end
//! - [`seen`]: what the agent knows of whoever ships

pub mod hold;
pub mod seen;
pub mod serve;
pub mod words;
