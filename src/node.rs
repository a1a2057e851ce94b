//! What a node is and needs: catalog, setup, doctor.
